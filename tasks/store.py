"""Puts and gets directories by the digest of their content, and pointers to them by name; the only user of boto3.

An artifact is `{root}/{kind}/{digest}/`, complete once the (hidden) `.manifest.json` is there, written last.
A pointer is `{root}/pointers/{kind}/{key}.json`, the only thing in the store that changes.
Everything raises StoreError when the store refuses (credentials, bucket, full disk) or holds no such thing,
IntegrityError when a file is not what its digest says, TransientError when the store does not answer.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore import exceptions as aws
from botocore.config import Config
from pydantic import TypeAdapter, ValidationError

from tasks.folder import CONTENT, MANIFEST, Folder, Manifest, checked_manifest, move, staging, verify
from tinybert.digest import files_digest, json_digest, list_files
from tinybert.errors import StoreError, TransientError
from tinybert.refs import Ref

TRANSFER = TransferConfig(preferred_transfer_client="classic")  # the CRT client raises other errors
UPLOAD: dict[str, Any] = {"ExtraArgs": {"ChecksumAlgorithm": "SHA256"}, "Config": TRANSFER}
_ROOT = re.compile(r"file:(?P<path>(?!//[^/]).+)|s3://(?P<bucket>[\w.-]{3,255})(/(?P<key>.*))?", re.ASCII)
_ARTIFACT = re.compile(r"(file:|s3://)((?!/\.\./).)+/[a-z][a-z0-9_-]*/[0-9a-f]{64}")
_POINTER = re.compile(r"[a-z][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_POINTED = TypeAdapter(dict[str, Ref])
_NO_CREDENTIALS = "S3 credentials missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_ANSWER = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, aws.FlexibleChecksumError)
_BUSY = {429, 500, 502, 503, 504, "SlowDown", "RequestTimeout", "BadDigest", "ConditionalRequestConflict"}
_ADVICE: dict[int | str, str] = {
    "NoSuchBucket": "no such bucket; create it or change the root",
    403: "access refused; check the credentials and their rights (get, put, list, delete)",
    404: "no such object; check bucket and key, and end a prefix with '/'",
}


class Store:
    """Directories by digest below a root, `file:/path` or `s3://bucket/prefix`; S3 needs a local `cache`."""

    def __init__(self, root: str, cache: Path):
        place = _place(root)
        self.root = f"file:{place.path.resolve()}" if isinstance(place, Folder) else root.rstrip("/")
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
            if place.read(MANIFEST) is None:
                place.put(directory, Manifest(kind=kind, digest=digest, files=files))
            return ref

    def get(self, ref: Ref) -> Path:
        """A local directory, every file just checked against the digest; treat it as read-only."""
        with _translated(ref.uri, self.cache):
            return _artifact(ref).open(ref, self.cache)

    def holds(self, ref: Ref) -> bool:
        """Whether the artifact is there and complete; its files are not read."""
        with _translated(ref.uri, self.cache):
            return _artifact(ref).read(MANIFEST) is not None

    def delete(self, ref: Ref) -> None:
        """Deletes an artifact and its local copy, if they are there; nobody may be putting the same content."""
        with _translated(ref.uri, self.cache):
            _artifact(ref).delete(ref, self.cache)

    def point(self, kind: str, key: str, refs: dict[str, Ref]) -> None:
        """Lets a pointer name these artifacts, at once: readers find what it named before, or all of these."""
        with self._pointers(kind, key) as place:
            place.write(f"{key}.json", _POINTED.dump_json(refs, indent=1))

    def pointed(self, kind: str, key: str) -> dict[str, Ref]:
        """What a pointer names; nothing where there is none, or none that can be read."""
        with self._pointers(kind, key) as place, suppress(ValidationError):
            return _POINTED.validate_json(place.read(f"{key}.json") or b"")
        return {}

    def unpoint(self, kind: str, key: str) -> None:
        """Removes a pointer, if it is there, and nothing of what it names."""
        with self._pointers(kind, key) as place:
            place.remove(f"{key}.json")

    @contextmanager
    def _pointers(self, kind: str, key: str) -> Iterator["Folder | _Bucket"]:
        """Where the pointers of a kind lie."""
        directory = f"{self.root}/pointers/{kind}"
        if not _POINTER.fullmatch(f"{kind}/{key}"):
            allowed = "the kind in lower case, the key of letters, digits and ._-, 200 at most"
            raise StoreError(f"{directory}/{key}: no name for a pointer; expected {allowed}")
        with _translated(f"{directory}/{key}.json", self.root):
            yield _place(directory)


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
        objects = place.objects(name) if CONTENT.fullmatch(name) else {}
        if not objects:
            raise StoreError(f"{uri}: {_ADVICE[404]}")
        slot = cache / "sources" / json_digest([uri, objects])
        with staging(slot.parent) as staged:
            for path, version in objects.items():
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(place.fetch_version(cache / "objects", *version), staged / path)
            move(staged, slot, intact=slot.is_dir)
        return slot / name


def names_at(uri: str) -> set[str]:
    """Names of the files below `file:/path` or `s3://bucket/prefix`, but hidden ones; none where nothing is yet."""
    with _translated(uri, uri):
        place = _place(uri.rstrip("/"))
        if isinstance(place, _Bucket):
            found = {item["Key"].removeprefix(place.prefix) for item in place.below(place.prefix)}
        elif place.path.exists() and not place.path.is_dir():
            raise StoreError(f"{uri}: found a file; name a directory")
        else:
            found = {path.relative_to(place.path).as_posix() for path in place.path.rglob("*") if path.is_file()}
        return {name for name in found if CONTENT.fullmatch(name)}


def copy_to(uri: str, directory: Path, last: str) -> None:
    """Copies a directory's files to `file:/path` or `s3://bucket/prefix`, each whole or not at all, and `last` last.

    This is for what people and other programs read: files of the same name are replaced, and nothing is read-only.
    """
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    with _translated(uri, uri):
        place = _place(uri.rstrip("/"))
        for name in sorted(names, key=lambda name: (name == last, name)):
            if isinstance(place, _Bucket):
                place.client.upload_file(str(directory / name), place.bucket, f"{place.prefix}{name}", **UPLOAD)
                continue
            with staging(place.path) as staged:
                shutil.copyfile(directory / name, staged / "file")
                (place.path / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / "file").replace(place.path / name)


@cache
def _client(settings: tuple[tuple[str, str], ...]) -> Any:
    """A client for these environment variables, kept because making one takes a fifth of a second."""
    return Session().client("s3", config=Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard"}))


@dataclass(frozen=True)
class _Bucket:
    bucket: str
    key: str

    @property
    def client(self) -> Any:
        return _client(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))

    @property
    def prefix(self) -> str:
        """What the keys below this one begin with."""
        return f"{self.key}/" if self.key else ""

    def read(self, name: str) -> bytes | None:
        with suppress(self.client.exceptions.NoSuchKey):
            answer = self.client.get_object(Bucket=self.bucket, Key=f"{self.key}/{name}")
            return bytes(answer["Body"].read())
        return None

    def write(self, name: str, body: bytes, **condition: str) -> None:
        key, checked = f"{self.key}/{name}", UPLOAD["ExtraArgs"]
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **checked, **condition)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.key}/{name}")

    def put(self, directory: Path, manifest: Manifest) -> None:
        for name in manifest.files:
            self.client.upload_file(str(directory / name), self.bucket, f"{self.key}/{name}", **UPLOAD)
        verify(directory, manifest.files, f"{directory} while it was stored")
        try:
            self.write(MANIFEST, manifest.model_dump_json(indent=1).encode(), IfNoneMatch="*")
        except aws.ClientError:
            if self.read(MANIFEST) is None:  # otherwise a concurrent writer was first, with the same content
                raise

    def open(self, ref: Ref, cache: Path) -> Path:
        local = _copy(ref, cache)
        if not local.is_intact(ref.digest):
            manifest = checked_manifest(ref, self.read(MANIFEST))
            with staging(local.path.parent) as staged:
                for name in manifest.files:
                    self.download(f"{self.key}/{name}", staged / name)
                local.publish(staged, manifest, ref.uri)
        return local.path

    def delete(self, ref: Ref, cache: Path) -> None:
        self.remove(MANIFEST)  # first: what a kill leaves is no artifact
        for item in self.below(f"{self.key}/"):
            self.client.delete_object(Bucket=self.bucket, Key=item["Key"])
        _copy(ref, cache).delete(ref, cache)

    def below(self, prefix: str) -> list[dict[str, Any]]:
        """Every object whose key starts so."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", [])]

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
        listed = self.below(self.key)
        found = {f"{name}/{i['Key'].removeprefix(self.key)}": (i["Key"], i["ETag"], i["Size"]) for i in listed}
        return {path: version for path, version in found.items() if CONTENT.fullmatch(path)}

    def fetch_version(self, cache: Path, key: str, tag: str, size: int) -> Path:
        """The local copy of one version of an object, downloaded unless it is there; old ones stay."""
        copy = cache / json_digest([self.bucket, key, tag, size])
        if not copy.is_file():
            with staging(cache) as staged:
                self.client.download_file(self.bucket, key, str(staged / "copy"), Config=TRANSFER)
                (staged / "copy").replace(copy)
        return copy


def _copy(ref: Ref, cache: Path) -> Folder:
    """Where an artifact of S3 lies on this machine."""
    return Folder(cache / ref.uri.split("/")[-2] / ref.digest)


def _place(uri: str) -> Folder | _Bucket:
    match = _ROOT.fullmatch(uri)
    if match is None:  # perhaps s3://key:secret@bucket, not to be shown
        raise StoreError(f"{re.sub('//.*@', '//***@', uri)!r}: use file:/path, file:rel or s3://bucket/prefix")
    return Folder(Path(match["path"])) if match["path"] else _Bucket(match["bucket"], match["key"] or "")


def _artifact(ref: Ref) -> Folder | _Bucket:
    if not is_stored(ref.uri) or not ref.uri.endswith(ref.digest):
        raise StoreError(f"{ref.uri}: expected {{root}}/{{kind}}/{ref.digest}, the kind in lower case")
    return _place(ref.uri)


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
