"""One URI grammar for models, data, corpora and vectors.

    hub:owner/name@revision      a Hugging Face repository; no revision means main
    file:/path                   a file or directory, also file:relative/path and file:~/path; taken literally
    s3://bucket/key              an object or prefix of the store
    package:module/path/inside   a file or directory of an installed Python package
    models:/name@alias           a registered model, also models:/name/3

Each may end in #sha256=<64 hex digits>, the digest its content must have (`check_pin`).
What lives in the object store and the registry is fetched by `tasks`, which alone knows them.
"""

import errno
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinybert.errors import InputError, SourceError, TransientError

Kind = Literal["model", "dataset"]

HUB_FILES: dict[Kind, list[str]] = {
    "model": ["*.safetensors", "*.json", "*.txt", "*.model", "README.md"],
    "dataset": [
        *("*.parquet", "*.csv", "*.tsv", "*.json", "*.jsonl", "*.txt", "*.gz", "*.arrow"),
        *("*.conll", "*.bio", "*.bio2", "*.iob", "*.iob2", "README.md"),
    ],
}
"""What is downloaded from a hub repository: never pickles or code."""

_GRAMMAR = (
    "hub:owner/name@revision, hub:owner/name/path/inside@revision, file:/path, s3://bucket/key, "
    "package:module/path/inside, "
    "models:/name@alias or models:/name/version, each optionally followed by #sha256=<64 hex digits>"
)
_NAME = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_RULES = {
    "hub": rf"(?!.*\.\.)(?![^@]*--)(?P<location>{_NAME}(?:/{_NAME})*)(?:@(?P<revision>\w[\w./+-]*))?",
    "file": r"(?://(?=/))?(?P<location>(?!//).+)",
    "s3": r"//(?P<location>[A-Za-z0-9][\w.-]+/.+)",
    "package": r"(?P<location>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:/[^/]+)+)/?",
    "models": r"/(?P<location>[^/:@]+(?:@[\w.-]+|/\d+))",
}
_PREFIXES = {"s3": "s3://", "models": "models:/"}
_LOCAL_FAULTS = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT}
_SECRETS = [
    (r"//(?!/).*@", "//***@"),
    (r":[^/:@]+:[^/@]+@", ":***@"),
    (r"(?i)([\w-]*(?:token|secret|passw|key|signature|credential)[\w-]*=)[^&#]+", r"\1***"),
    (r"(?:hf|hf_oauth|api_org)_[A-Za-z0-9]{16,}", "***"),
]


@dataclass(frozen=True)
class Source:
    """A parsed source URI."""

    scheme: str
    """hub, file, s3, package or models."""
    location: str
    """owner/name or owner/name/path/inside, path, bucket/key, module/path/inside, name@alias or name/version."""
    revision: str | None
    """Branch, tag or commit of a hub repository; None is main."""
    pin: str | None
    """SHA-256 the content must have, in lower-case hex; None accepts any."""

    def __str__(self) -> str:
        """The URI without its pin, fit for messages: what looks like a secret is left out."""
        revision = f"@{self.revision}" if self.revision else ""
        return _redacted(f"{_PREFIXES.get(self.scheme, self.scheme + ':')}{self.location}{revision}")


def parse(uri: str) -> Source:
    """The parts of a source URI.

    Raises:
        SourceError: The URI is not in the grammar, its pin is no SHA-256, or it leads out of its package.
    """
    body, hash_sign, pin = uri.partition("#sha256=")
    scheme, _, rest = body.partition(":")
    match = re.fullmatch(_RULES.get(scheme, "(?!)"), rest, re.ASCII if scheme != "file" else 0)
    if match is None or not uri.isprintable():
        raise SourceError(f"source: found {_redacted(uri)!r}; write one of {_GRAMMAR}")
    if hash_sign and not re.fullmatch("[0-9a-fA-F]{64}", pin):
        raise SourceError(f"source: found the pin {_redacted(pin)!r}; #sha256= takes 64 hex digits, or leave it out")
    source = Source(scheme, match["location"], match.groupdict().get("revision"), pin.lower() or None)
    if scheme == "package" and ".." in source.location.split("/"):
        raise SourceError(f"{source} leads out of the package; write a path inside it, without '..'")
    return source


def resolve(uri: str, kind: Kind = "dataset") -> Path:
    """Where a hub, file or package source lies on this machine.

    A hub source is downloaded into the hub's cache first. Other programs fill that cache too: a snapshot
    there may hold more files than `HUB_FILES` names. The pin is not checked here, but by `check_pin`.

    Raises:
        SourceError: The source does not exist, may not be read, is empty, or is a model without safetensors.
        TransientError: The hub cannot be reached, or fails.
    """
    source = parse(uri)
    if source.scheme == "hub":
        path = _download(source, kind)
    elif source.scheme == "package":
        path = _inside_package(source)
    elif source.scheme == "file":
        path = _expanded(source)
    else:
        raise SourceError(
            f"{source}: {source.scheme} sources are fetched by `tasks`, from the store or the registry; "
            "resolve takes hub:, file: and package:"
        )
    _check_files(source, path, kind)
    return path


def check_pin(source: Source, digest: str) -> None:
    """Refuse content whose digest is not the pinned one; a source without a pin accepts any.

    Raises:
        SourceError: The content moved.
    """
    if source.pin not in (None, digest):
        remedy = "name the commit that was pinned" if source.scheme == "hub" else "restore the pinned content"
        raise SourceError(
            f"{source} moved: pinned sha256 {source.pin}, found {digest}; {remedy}, "
            f"or accept the new content with #sha256={digest}"
        )


def _redacted(text: str) -> str:
    for pattern, replacement in _SECRETS:
        text = re.sub(pattern, replacement, text)
    return text


def _expanded(source: Source) -> Path:
    try:
        return Path(source.location).expanduser()
    except RuntimeError:
        raise SourceError(f"{source}: the home directory is unknown; write the path in full") from None


def _inside_package(source: Source) -> Path:
    """Finds a package without importing it.

    The parts of a dotted name are directories here: `find_spec` of a dotted name would import the parents.
    Links are followed, because installers link files from their caches.
    """
    module, _, inside = source.location.partition("/")
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
        spec = None
    found = spec.submodule_search_locations if spec else None
    roots = [root for root in (Path(location, *below) for location in found or []) if root.is_dir()]
    if not roots:
        raise SourceError(
            f"{source}: found no installed package {module}; install it, for example with "
            f"pip install {top.replace('_', '-')}; those of the examples come with the extra 'quickstart'"
        )
    paths = [root / inside for root in roots]
    return next((path for path in paths if path.exists()), paths[0])


def _check_files(source: Source, path: Path, kind: Kind) -> None:
    # The hub makes no directory for a repository of which nothing is wanted.
    names = _readable_files(source, path) if source.scheme != "hub" or path.exists() else []
    if kind == "model" and path.is_file():
        raise SourceError(f"{source}: found a file; a model is a directory with config.json, *.safetensors")
    if kind == "model" and not any("/" not in name and name.endswith(".safetensors") for name in names):
        raise SourceError(
            f"{source}: found no *.safetensors; only safetensors is read, never pickles; "
            "convert it with save_pretrained (transformers 4: save_pretrained(safe_serialization=True))"
        )
    if not names:
        expected = f"none of {', '.join(HUB_FILES[kind])}" if source.scheme == "hub" else f"no files in {path}"
        raise SourceError(f"{source}: found {expected}; name a source that has some")


def _readable_files(source: Source, path: Path) -> list[str]:
    """Names of the visible files below a path, as in `digest.list_files`, each of which could be opened."""
    try:
        if not path.exists():
            raise SourceError(f"{source}: found nothing at {path.absolute()}; correct the path, or create it")
        names = []
        for entry in [path, *path.rglob("*")]:
            inside = entry.relative_to(path)
            if any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
                continue
            if entry.is_dir():
                os.scandir(entry).close()
            elif entry.is_symlink() and not entry.exists():
                raise SourceError(f"{source}: {entry} is a link to nothing; restore its target, or remove it")
            elif entry.is_file():
                entry.open("rb").close()
                names.append(inside.as_posix())
        return names
    except PermissionError as error:
        raise SourceError(f"{source}: {error.filename} may not be read by this user; change its mode") from error
    except OSError as error:
        raise SourceError(f"{source}: {path} cannot be read ({error.strerror}); name a readable path") from error


def _download(source: Source, kind: Kind) -> Path:
    # Imported here: the form is built without it. It reads HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT at import.
    from huggingface_hub import errors, snapshot_download

    _limit_waiting()
    repository, inside = _repository(source)
    wanted = [f"{inside}/{pattern}" for pattern in HUB_FILES[kind]] + [inside] if inside else HUB_FILES[kind]
    try:
        return Path(
            snapshot_download(repository, repo_type=kind, revision=source.revision, allow_patterns=wanted), inside
        )
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:  # type: ignore[attr-defined]
        # HTTPError is httpx's or httpx2's, by the hub's version; RuntimeError is how hf_xet reports its network.
        # Not chained: the hub's own message quotes addresses, and HF_ENDPOINT may hold a password.
        raise _hub_fault(source, kind, error) from None


def _repository(source: Source) -> tuple[str, str]:
    """Repository and path inside it of a hub source: `owner/name/data/en` is `owner/name` and `data/en`."""
    parts = source.location.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _limit_waiting() -> None:
    """Give the hub's client a time limit: its listing calls set none, so a silent server would hang the run."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks
    if _limit_request not in hooks["request"]:
        get_session().event_hooks = {**hooks, "request": [*hooks["request"], _limit_request]}


def _limit_request(request: Any) -> None:
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT

    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        phase: HF_HUB_DOWNLOAD_TIMEOUT if limits.get(phase) is None else limits[phase]
        for phase in ("connect", "read", "write", "pool")
    }


def _hub_fault(source: Source, kind: Kind, error: BaseException) -> InputError | TransientError:
    """What a failed download means for the caller."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE and isinstance(error, errors.LocalEntryNotFoundError):
        return SourceError(
            f"{source}: offline and not in the cache {constants.HF_HUB_CACHE}, or not complete there; "
            "unset HF_HUB_OFFLINE, or fill the cache on a machine with network"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _hub_fault(source, kind, error.__cause__)
    if isinstance(error, errors.GatedRepoError):
        return SourceError(f"{source} is gated; accept its terms on its page, and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(f"{source}: no such {kind} repository (or it is private: set HF_TOKEN)")
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(
            f"{source}: the repository has no revision {source.revision or 'main'!r}; name a branch, tag or "
            f"commit that its page lists under 'Files and versions', as in hub:{_repository(source)[0]}@main"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _http_fault(source, error.response.status_code)
    if isinstance(error, OSError) and error.errno in _LOCAL_FAULTS:
        return SourceError(
            f"{source}: the cache {constants.HF_HUB_CACHE} cannot be written ({error.strerror}); "
            "make room or change its mode, or set HF_HOME"
        )
    if isinstance(error, errors.HFValidationError):
        return SourceError(f"{source}: the hub allows no such name; write hub:owner/name@revision")
    if isinstance(error, errors.FileMetadataError | ValueError):
        return SourceError(f"{source}: the answer is not a hub's ({type(error).__name__}); check HF_ENDPOINT")
    return TransientError(f"{source}: the hub cannot be reached ({type(error).__name__}); try again later")


def _http_fault(source: Source, status: int) -> InputError | TransientError:
    if status in (408, 429) or status >= 500:
        return TransientError(f"{source}: the hub answers HTTP {status}; try again later")
    return SourceError(f"{source}: the hub refuses (HTTP {status}); check the name, HF_TOKEN and HF_ENDPOINT")
