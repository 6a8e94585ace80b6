"""The local stack: database, S3, Prefect, MLflow and a worker on loopback, kept alive by a supervisor; `make up`."""
