"""Where the stack keeps its data, and how its processes are known: one directory, one mark in the environment."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tinybert.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: working directory of the parts, and TINYBERT_HOME of the deployments."""

HOST = "127.0.0.1"
"""Nothing of the stack listens anywhere else."""

STACK_VARIABLE = "TINYBERT_STACK"
PART_VARIABLE = "TINYBERT_STACK_PART"
"""Every process of a stack has both in its environment: the directory, and which part it belongs to."""

SOCKET_PATH_LIMIT = 100
"""A path that is longer does not fit into the address of a Unix socket (108 bytes on Linux, 104 on macOS)."""


@dataclass(frozen=True)
class Layout:
    """The files of one stack.

    Attributes:
        directory: Absolute; all that the stack knows lies below it.
    """

    directory: Path

    @classmethod
    def here(cls) -> "Layout":
        """The stack that TINYBERT_STACK names, or the one in build/stack.

        Raises:
            InputError: The supervisor could not read its path.
        """
        directory = Path(os.environ.get(STACK_VARIABLE) or ROOT / "build" / "stack").resolve()
        for path in (directory, ROOT):
            if set("%;\n") & set(str(path)):
                raise InputError(f"{path}: the supervisor cannot read paths with % or ;, use another directory")
        return cls(directory)

    def make(self) -> None:
        """Create the directories, open to nobody else.

        As root, others may pass through the first one, because the database then has another user.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for directory in (self.logs, self.prefect, self.mlflow, self.s3, self.sockets, self.work):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def env(self) -> Path:
        """Ports, bucket and credentials."""
        return self.directory / ".env"

    @property
    def lock(self) -> Path:
        """Held by `make up` as long as it runs."""
        return self.directory / "lock"

    @property
    def logs(self) -> Path:
        """One file a part, and the supervisor's."""
        return self.directory / "logs"

    @property
    def postgres(self) -> Path:
        """The database cluster, if there is PostgreSQL."""
        return self.directory / "postgres"

    @property
    def prefect(self) -> Path:
        """PREFECT_HOME: results, leases of concurrency slots, the database without PostgreSQL."""
        return self.directory / "prefect"

    @property
    def mlflow(self) -> Path:
        """MLflow's database without PostgreSQL."""
        return self.directory / "mlflow"

    @property
    def s3(self) -> Path:
        """What lies in the bucket."""
        return self.directory / "s3"

    @property
    def identities(self) -> Path:
        """Who may do what in the bucket, for the S3 server; made anew from `.env` at every start."""
        return self.directory / "s3-identities.json"

    @property
    def sockets(self) -> Path:
        """Sockets and logs that the S3 server would put into /tmp."""
        return self.directory / "run"

    @property
    def work(self) -> Path:
        """TINYBERT_WORK of the worker."""
        return self.directory / "work"

    @property
    def configuration(self) -> Path:
        """The supervisor's; made anew at every start, without a secret."""
        return self.directory / "supervisord.conf"

    @property
    def pid(self) -> Path:
        """There while the supervisor runs, or after it was killed."""
        return self.directory / "supervisord.pid"

    @property
    def socket(self) -> Path:
        """Where the supervisor listens."""
        path = self.directory / "supervisord.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tinybert-{name}.sock"

    def log(self, part: str) -> Path:
        """What a part says."""
        return self.logs / f"{part}.log"

    def tail(self, part: str, lines: int = 15) -> str:
        """The last lines a part said."""
        try:
            said = self.log(part).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            said = []
        return "\n".join(said[-lines:])
