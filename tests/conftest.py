"""Settings that keep every test away from the developer's own servers, caches and runs."""

import contextlib
import logging
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported anywhere: one thread computes the same numbers on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", PREFECT_SERVER_ANALYTICS_ENABLED="false")
# The same examples in every run; `pytest --hypothesis-profile=default` looks for others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def smoke_material(tmp_path_factory) -> Path:
    """Directory with what the smoke preset reads: a tiny real BERT, rows, corpus, vectors."""
    from tinybert import samples
    from tinybert.libraries import quiet

    quiet()
    directory = tmp_path_factory.mktemp("smoke")
    samples.write(directory)
    return directory


@pytest.fixture(autouse=True)
def own_voice():
    """The logger as each test found it: a command line called within a test takes it over for good."""
    logger = logging.getLogger("tinybert")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


@pytest.fixture
def nowhere():
    """A metrics callback that keeps nothing."""
    return lambda metrics, step: None


@pytest.fixture(scope="session")
def prefect_server():
    """Prefect with a fresh database, one accelerator slot, and one promotion at a time."""
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        with get_client(sync_client=True) as client:
            for limit in ("accelerator", "promotions"):
                client.upsert_global_concurrency_limit_by_name(limit, limit=1)
        yield


@contextlib.contextmanager
def installation(directory):
    """Inside, store, work directory, MLflow and Prefect's results lie below a directory."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    from tasks import connections, settings

    def forget():
        settings.settings.cache_clear()
        connections.store.cache_clear()
        connections.tracker.cache_clear()
        connections.registry.cache_clear()

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_LOCAL_STORAGE_PATH: directory / "results"}):
        patch.setenv("TINYBERT_STORE", f"file:{directory}/store")
        patch.setenv("TINYBERT_WORK", str(directory / "work"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        forget()
        yield directory
    forget()


@pytest.fixture
def home(prefect_server, tmp_path):
    """A fresh installation for one test."""
    with installation(tmp_path) as directory:
        yield directory


@pytest.fixture(scope="module")
def shared_home(prefect_server, tmp_path_factory):
    """One installation for all tests of a module."""
    with installation(tmp_path_factory.mktemp("installation")) as directory:
        yield directory


class RayNodes:
    """Two nodes of a Ray cluster, of one core each, on this machine.

    Attributes:
        address: Of the head.
        logs: Directory with all that Ray writes down.
    """

    def __init__(self, logs: Path) -> None:
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self.logs = logs
        self._cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        self._cluster.add_node(**node)
        self.address: str = self._cluster.address

    def end(self) -> None:
        """Leave nothing running."""
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def ray_nodes():
    """A cluster on which two processes must be on two nodes."""
    pytest.importorskip("prefect_ray")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp") as directory:
        patch.setenv("RAY_TMPDIR", directory)  # a short name, because sockets lie there too
        patch.setenv("RAY_AUTH_TOKEN", "a" * 64)  # or Ray would write one into the home directory
        nodes = RayNodes(Path(directory))
        yield nodes
        nodes.end()
