"""Puts and gets directories by the digest of their content; the only user of boto3.

An artifact is `{root}/{kind}/{digest}/`, complete once the (hidden) `.manifest.json` is there, written last.
Everything raises StoreError when the store refuses (credentials, bucket, full disk) or holds no such thing,
IntegrityError when a file is not what its digest says, TransientError when the store does not answer.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore import exceptions as aws
from botocore.config import Config
from pydantic import BaseModel, StringConstraints, ValidationError

from tinybert.digest import FileEntry, files_digest, json_digest, list_files
from tinybert.errors import IntegrityError, StoreError, TransientError
from tinybert.refs import Ref

MANIFEST = ".manifest.json"
STAGING = ".staging-"
TRANSFER = TransferConfig(preferred_transfer_client="classic")  # the CRT client raises other errors
UPLOAD: dict[str, Any] = {"ExtraArgs": {"ChecksumAlgorithm": "SHA256"}, "Config": TRANSFER}
_ROOT = re.compile(r"file:(?P<path>(?!//[^/]).+)|s3://(?P<bucket>[\w.-]{3,255})(/(?P<key>.*))?", re.ASCII)
_CONTENT = r"[^./\x00][^/\x00]*(/[^./\x00][^/\x00]*)*"  # a relative path, nothing hidden, so no `..` either
_ARTIFACT = re.compile(r"(file:|s3://)((?!/\.\./).)+/[a-z][a-z0-9_-]*/[0-9a-f]{64}")
_NO_CREDENTIALS = "S3 credentials missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_ANSWER = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, aws.FlexibleChecksumError)
_BUSY = {429, 500, 502, 503, 504, "SlowDown", "RequestTimeout", "BadDigest", "ConditionalRequestConflict"}
_ADVICE: dict[int | str, str] = {
    "NoSuchBucket": "no such bucket; create it or change the root",
    403: "access refused; check the credentials and their rights (get, put, list)",
    404: "no such object; check bucket and key, and end a prefix with '/'",
}


class _Manifest(BaseModel):
    version: Literal[1] = 1
    kind: str
    digest: str
    files: dict[Annotated[str, StringConstraints(pattern=f"^{_CONTENT}$")], FileEntry]


class Store:
    """Directories by digest below a root, `file:/path` or `s3://bucket/prefix`; S3 needs a local `cache`."""

    def __init__(self, root: str, cache: Path):
        place = _place(root)
        self.root = f"file:{place.path.resolve()}" if isinstance(place, _Folder) else root.rstrip("/")
        self.cache = cache

    def put(self, kind: str, directory: Path) -> Ref:
        """Stores a directory, which must hold a file, unless its content is there already."""
        with _translated(f"{self.root}/{kind}", self.root):
            files = list_files(directory)
            if not files:
                raise StoreError(f"{self.root}/{kind}: no files in {directory}; write the output there first")
            digest = files_digest(files)
            ref = Ref(uri=f"{self.root}/{kind}/{digest}", digest=digest)
            place = _artifact(ref)
            if place.read_manifest() is None:
                place.write(directory, _Manifest(kind=kind, digest=digest, files=files))
            return ref

    def get(self, ref: Ref) -> Path:
        """A local directory, every file just checked against the digest; treat it as read-only."""
        with _translated(ref.uri, self.cache):
            return _artifact(ref).open(ref, self.cache)

    def holds(self, ref: Ref) -> bool:
        """Whether the artifact is there and complete; its files are not read."""
        with _translated(ref.uri, self.cache):
            return _artifact(ref).read_manifest() is not None


def is_stored(uri: str) -> bool:
    """Whether a URI has the form of an artifact (`.../kind/digest`), not of a source."""
    return _ARTIFACT.fullmatch(uri) is not None


def fetch_source(uri: str, cache: Path) -> Path:
    """A local copy of `s3://bucket/key` (a file), or of all below `s3://bucket/prefix/` but hidden names."""
    with _translated(uri, cache):
        place = _place(uri)
        if not isinstance(place, _Bucket):
            raise StoreError(f"{uri}: cannot be fetched; use s3://bucket/key or s3://bucket/prefix/")
        name = place.key.rstrip("/").rpartition("/")[2] or place.bucket
        objects = place.objects(name) if re.fullmatch(_CONTENT, name) else {}
        if not objects:
            raise StoreError(f"{uri}: {_ADVICE[404]}")
        slot = cache / "sources" / json_digest([uri, objects])
        with _staging(slot.parent) as staging:
            for path, version in objects.items():
                (staging / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(place.fetch_version(cache / "objects", *version), staging / path)
            _move(staging, slot, intact=slot.is_dir)
        return slot / name


@cache
def _client(settings: tuple[tuple[str, str], ...]) -> Any:
    """A client for these environment variables, kept because making one takes a fifth of a second."""
    return Session().client("s3", config=Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard"}))


@dataclass(frozen=True)
class _Folder:
    path: Path

    def read_manifest(self) -> bytes | None:
        return path.read_bytes() if (path := self.path / MANIFEST).is_file() else None

    def write(self, directory: Path, manifest: _Manifest) -> None:
        with _staging(self.path.parent) as staging:
            for name in manifest.files:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, staging / name)
            self.publish(staging, manifest, f"{directory} while it was stored")

    def publish(self, staging: Path, manifest: _Manifest, label: str) -> None:
        """Gives staged files their final name, once they are checked and the manifest is on the disk."""
        _verify(staging, manifest.files, label)
        with (staging / MANIFEST).open("w") as file:
            file.write(manifest.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        _move(staging, self.path, intact=lambda: self.is_intact(manifest.digest))

    def is_intact(self, digest: str) -> bool:
        return self.read_manifest() is not None and files_digest(list_files(self.path)) == digest

    def open(self, ref: Ref, cache: Path) -> Path:
        _verify(self.path, _checked(ref, self.read_manifest()).files, ref.uri)
        return self.path


@dataclass(frozen=True)
class _Bucket:
    bucket: str
    key: str

    @property
    def client(self) -> Any:
        return _client(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))

    def read_manifest(self) -> bytes | None:
        with suppress(self.client.exceptions.NoSuchKey):
            answer = self.client.get_object(Bucket=self.bucket, Key=f"{self.key}/{MANIFEST}")
            return bytes(answer["Body"].read())
        return None

    def write(self, directory: Path, manifest: _Manifest) -> None:
        for name in manifest.files:
            self.client.upload_file(str(directory / name), self.bucket, f"{self.key}/{name}", **UPLOAD)
        _verify(directory, manifest.files, f"{directory} while it was stored")
        body, extra = manifest.model_dump_json(indent=1).encode(), {"IfNoneMatch": "*", **UPLOAD["ExtraArgs"]}
        try:
            self.client.put_object(Bucket=self.bucket, Key=f"{self.key}/{MANIFEST}", Body=body, **extra)
        except aws.ClientError:
            if self.read_manifest() is None:  # otherwise a concurrent writer was first, with the same content
                raise

    def open(self, ref: Ref, cache: Path) -> Path:
        local = _Folder(cache / ref.uri.split("/")[-2] / ref.digest)
        if not local.is_intact(ref.digest):
            manifest = _checked(ref, self.read_manifest())
            with _staging(local.path.parent) as staging:
                for name in manifest.files:
                    self.download(f"{self.key}/{name}", staging / name)
                local.publish(staging, manifest, ref.uri)
        return local.path

    def download(self, key: str, target: Path) -> None:
        """Fetches one object; where there is none, the check that follows says which file is missing."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.client.download_file(self.bucket, key, str(target), Config=TRANSFER)
        except aws.ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise

    def objects(self, name: str) -> dict[str, tuple[str, str, int]]:
        """Key, entity tag and size of the object, or of each below a prefix, by local path under `name`."""
        if self.key and not self.key.endswith("/"):
            head = self.client.head_object(Bucket=self.bucket, Key=self.key)
            return {name: (self.key, head["ETag"], head["ContentLength"])}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.key)
        listed = [item for page in pages for item in page.get("Contents", [])]
        found = {f"{name}/{i['Key'].removeprefix(self.key)}": (i["Key"], i["ETag"], i["Size"]) for i in listed}
        return {path: version for path, version in found.items() if re.fullmatch(_CONTENT, path)}

    def fetch_version(self, cache: Path, key: str, tag: str, size: int) -> Path:
        """The local copy of one version of an object, downloaded unless it is there; old ones stay."""
        copy = cache / json_digest([self.bucket, key, tag, size])
        if not copy.is_file():
            with _staging(cache) as staging:
                self.client.download_file(self.bucket, key, str(staging / "copy"), Config=TRANSFER)
                (staging / "copy").replace(copy)
        return copy


def _place(uri: str) -> _Folder | _Bucket:
    match = _ROOT.fullmatch(uri)
    if match is None:  # perhaps s3://key:secret@bucket, not to be shown
        raise StoreError(f"{re.sub('//.*@', '//***@', uri)!r}: use file:/path, file:rel or s3://bucket/prefix")
    return _Folder(Path(match["path"])) if match["path"] else _Bucket(match["bucket"], match["key"] or "")


def _artifact(ref: Ref) -> _Folder | _Bucket:
    if not is_stored(ref.uri) or not ref.uri.endswith(ref.digest):
        raise StoreError(f"{ref.uri}: expected {{root}}/{{kind}}/{ref.digest}, the kind in lower case")
    return _place(ref.uri)


def _checked(ref: Ref, text: bytes | None) -> _Manifest:
    """A manifest, checked against the digest the caller expects."""
    if text is None:
        raise StoreError(f"{ref.uri}: no such artifact; check the root, or run the stage that makes it")
    try:
        manifest = _Manifest.model_validate_json(text)
    except ValidationError as bad:
        raise IntegrityError(f"{ref.uri}: {MANIFEST}, delete it: wrong at {bad.errors()[0]['loc']}") from bad
    if (found := files_digest(manifest.files)) != ref.digest:
        raise IntegrityError(f"{ref.uri}: {MANIFEST} has digest {found}, expected {ref.digest}; delete it")
    return manifest


def _verify(directory: Path, expected: dict[str, FileEntry], label: str) -> None:
    found = list_files(directory)
    for name in sorted(expected.keys() | found.keys()):
        if (have := found.get(name, "no file")) != (want := expected.get(name, "no file")):
            raise IntegrityError(f"{label}: {name}: found {have}, expected {want}; delete it, make it again")


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """An empty directory hidden beside what is being made; sweeps what processes killed a day ago left."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{STAGING}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=STAGING, dir=parent, ignore_cleanup_errors=True) as outer:
        (staging := Path(outer) / "content").mkdir()  # inside, for the permissions of the process, not 0700
        yield staging


def _move(staging: Path, final: Path, intact: Callable[[], bool]) -> None:
    """Gives staged files, now read-only, their final name at once, unless a concurrent writer was first."""
    for path in filter(Path.is_file, staging.rglob("*")):
        path.chmod(0o444)
    try:
        staging.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if not intact():  # damaged or incomplete: it gives way
            with suppress(FileNotFoundError):
                final.rename(staging.with_name("replaced"))
            _move(staging, final, intact)


@contextmanager
def _translated(uri: str, disk: str | Path) -> Iterator[None]:
    """Turns what boto3 and the file system raise into this project's errors; no message holds a secret."""
    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise StoreError(f"{uri}: {_NO_CREDENTIALS}") from error
    except (aws.ClientError, S3UploadFailedError) as error:
        raise _refusal(uri, error if isinstance(error, aws.ClientError) else error.__context__) from error
    except (*_NO_ANSWER, RetriesExceededError) as error:
        raise TransientError(f"{uri}: no answer from S3 ({type(error).__name__}); check its URL") from error
    except aws.BotoCoreError as error:
        raise StoreError(f"{uri}: wrong AWS settings ({type(error).__name__}); correct them") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fault = f"disk full while writing {disk}; free space or change the root or cache" if full else error
        raise StoreError(f"{uri}: {fault}") from error


def _refusal(uri: str, error: Any) -> Exception:
    code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    if {code, status} & _BUSY:
        return TransientError(f"{uri}: S3 is busy ({status} {code}); try again")
    advice = _ADVICE.get(code, _ADVICE.get(status, "S3 refused the request"))
    return StoreError(f"{uri}: {advice} ({status} {code})")
