"""Is a part of the stack healthy? Each check asks for what clients will ask for, and says no rather than raise."""

from datetime import UTC, datetime

import boto3.session
import httpx
import psycopg2
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.stack import postgres
from infra.stack.layout import HOST
from infra.stack.settings import Settings

POOL = "tinybert"
WORKER = "local"
BLOCK = "tinybert-failures"
"""The notification block through which failed runs are told of, where somebody has made one."""
UNTOLD = f"no block {BLOCK}: nobody is told of failed runs; docs/retraining.md says how"


def database(settings: Settings) -> bool:
    """The database answers a query."""
    try:
        connection = psycopg2.connect(
            host=HOST,
            port=settings.postgres_port,
            user=postgres.ROLE,
            password=settings.postgres_password.get_secret_value(),
            dbname=postgres.DATABASES[0],
            connect_timeout=3,
        )
    except psycopg2.Error:
        return False
    connection.close()
    return True


def s3(settings: Settings) -> bool:
    """An object can be written with the stack's credentials, and deleted."""
    config = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, proxies={})
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_url,
        aws_access_key_id=settings.aws_access_key_id,
        aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        region_name="us-east-1",
        config=config,
    )
    try:
        client.put_object(Bucket=settings.s3_bucket, Key="health", Body=b"")
        client.delete_object(Bucket=settings.s3_bucket, Key="health")
    except (BotoCoreError, ClientError):
        return False
    return True


def prefect(settings: Settings) -> bool:
    """The server answers, and its database does."""
    return _get(f"{settings.prefect_url}/api/ready")


def mlflow(settings: Settings) -> bool:
    """The server answers."""
    return _get(f"{settings.mlflow_url}/health")


def _get(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def worker(settings: Settings, started: float) -> bool:
    """The worker has told Prefect that it is there, since it was started."""
    url = f"{settings.prefect_url}/api/work_pools/{POOL}/workers/filter"
    try:
        answer = httpx.post(url, json={}, timeout=5, trust_env=False)
        workers = answer.json() if answer.status_code == 200 else []
    except (httpx.HTTPError, ValueError):
        return False
    since = datetime.fromtimestamp(started, UTC)
    return any(
        found["name"] == WORKER and datetime.fromisoformat(found["last_heartbeat_time"]) >= since for found in workers
    )
