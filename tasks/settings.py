"""Where this installation keeps things: from the environment, never from a run's form."""

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Environment variables with defaults that need no server; see docs/operations.md."""

    model_config = SettingsConfigDict(env_prefix="TINYBERT_", frozen=True, use_attribute_docstrings=True)

    store: str = "file:build/store"
    """TINYBERT_STORE: root of the object store, `file:/path` or `s3://bucket/prefix` (AWS_* variables apply)."""
    work: Path = Path("build/work")
    """TINYBERT_WORK: local directory for running stages, their checkpoints, and what is fetched."""
    experiment: str = "tinybert"
    """TINYBERT_EXPERIMENT: MLflow experiment."""
    tracking_uri: str = Field("sqlite:///build/mlflow.db", validation_alias="MLFLOW_TRACKING_URI")
    """MLFLOW_TRACKING_URI: MLflow server, or a SQLite file."""
    tracking_page: str = ""
    """TINYBERT_TRACKING_PAGE: where browsers find MLflow, where that is not MLFLOW_TRACKING_URI; links lead there."""
    slots: str = "accelerator"
    """TINYBERT_SLOTS: Prefect concurrency limit that accelerator stages occupy, one slot each."""
    promotions: str = "promotions"
    """TINYBERT_PROMOTIONS: Prefect concurrency limit, of one slot, that whoever moves a champion occupies meanwhile."""

    @property
    def keeps_models_from_mlflow(self) -> bool:
        """An MLflow server takes no model versions whose files lie in somebody's local folder."""
        return self.tracking_uri.startswith("http") and self.store.startswith("file:")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
