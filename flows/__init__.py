"""Which stage follows which. Flows order; tasks and stages do the work."""
