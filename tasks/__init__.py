"""The pipeline's effects: object storage, tracking, accelerator slots, retries and caching."""
