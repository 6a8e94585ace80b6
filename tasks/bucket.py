"""Artifacts and pointers in an S3 bucket, what else lies there, and what S3's errors mean; the only user of boto3.

`Bucket` does for a prefix what `tasks.folder.Folder` does for a directory.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore import exceptions as aws
from botocore.config import Config

from tasks.folder import CONTENT, INSIDE, MANIFEST, Entry, Folder, Manifest, checked_manifest, staging, verify
from tinybert.digest import json_digest
from tinybert.errors import StoreError, TransientError
from tinybert.refs import Ref

TRANSFER = TransferConfig(preferred_transfer_client="classic")  # the CRT client raises other errors
UPLOAD: dict[str, Any] = {"ExtraArgs": {"ChecksumAlgorithm": "SHA256"}, "Config": TRANSFER}
FRESH = 3600.0
"""Seconds for which an artifact that was found needs no new time; ages are counted in days."""
_NO_CREDENTIALS = "S3 credentials missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_ANSWER = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, aws.FlexibleChecksumError)
_BUSY = {429, 500, 502, 503, 504, "SlowDown", "RequestTimeout", "BadDigest", "ConditionalRequestConflict"}
NO_OBJECT = "no such object; check bucket and key, and end a prefix with '/'"
_ADVICE: dict[int | str, str] = {
    "NoSuchBucket": "no such bucket; create it or change the root",
    403: "access refused; check the credentials and their rights (get, put, list, delete)",
    404: NO_OBJECT,
}


PATIENCE: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard"}}
IMPATIENCE: dict[str, Any] = PATIENCE | {"read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 2}}
"""Seconds, and attempts, until S3 is said not to answer: of work, and of a look around."""
_SILENT: ContextVar[list[str] | None] = ContextVar("silent", default=None)
"""Within `impatient`, what has had no answer there."""


@contextmanager
def impatient() -> Iterator[None]:
    """Inside, an S3 that hangs is known in half a minute: it is waited for a short time, and once only."""
    before = _SILENT.set([])
    try:
        yield
    finally:
        _SILENT.reset(before)


@cache
def _client(settings: tuple[tuple[str, str], ...], is_impatient: bool) -> Any:
    """A client for these environment variables, kept because making one takes a fifth of a second."""
    return Session().client("s3", config=Config(**IMPATIENCE if is_impatient else PATIENCE))


@dataclass(frozen=True)
class Bucket:
    """A key of a bucket: an artifact's, the pointers' of one kind, or the root of all."""

    bucket: str
    key: str

    @property
    def client(self) -> Any:
        """Of boto3, for the environment as it is now.

        Raises:
            StoreError: The server's address holds a password, which errors would show.
            TransientError: Nobody has patience, and there was no answer a moment ago.
        """
        if any("@" in os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")):
            raise StoreError(
                "AWS_ENDPOINT_URL_S3 carries a user or password, which S3 does not read; put the keys into "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        silent = _SILENT.get()
        if silent:
            raise TransientError(f"s3://{self.bucket}/{self.key}: not asked, as S3 gave no answer for {silent[0]}")
        known = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        return _client(known, silent is not None)

    @property
    def prefix(self) -> str:
        """What the keys below this one begin with."""
        return f"{self.key}/" if self.key else ""

    def read(self, name: str) -> bytes | None:
        """The content of an object, None without one."""
        with suppress(self.client.exceptions.NoSuchKey):
            answer = self.client.get_object(Bucket=self.bucket, Key=f"{self.key}/{name}")
            return bytes(answer["Body"].read())
        return None

    def write(self, name: str, body: bytes, **condition: str) -> None:
        """Gives an object this content, at once."""
        key, checked = f"{self.key}/{name}", UPLOAD["ExtraArgs"]
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **checked, **condition)

    def remove(self, name: str) -> None:
        """Removes an object, if it is there."""
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.key}/{name}")

    def put(self, directory: Path, manifest: Manifest, given: bool) -> None:
        """Makes the artifact from the files of a directory; they are copied, `given` or not."""
        for name in manifest.files:
            self.client.upload_file(str(directory / name), self.bucket, f"{self.key}/{name}", **UPLOAD)
        verify(directory, manifest.files, f"{directory} while it was stored")
        try:
            self.write(MANIFEST, manifest.model_dump_json(indent=1).encode(), IfNoneMatch="*")
        except aws.ClientError:
            if self.read(MANIFEST) is None:  # otherwise a concurrent writer was first, with the same content
                raise

    def touch(self) -> bool:
        """Whether there is an artifact; its age counts from now, to an hour: the manifest is written once more."""
        with suppress(self.client.exceptions.NoSuchKey):
            found = self.client.get_object(Bucket=self.bucket, Key=f"{self.key}/{MANIFEST}")
            body = bytes(found["Body"].read())
            if time.time() - found["LastModified"].timestamp() < FRESH:
                return True
            try:
                self.write(MANIFEST, body, IfMatch=found["ETag"])
            except aws.ClientError:  # nobody may write here, or somebody has just deleted it
                return self.read(MANIFEST) is not None
            return True
        return False

    def open(self, ref: Ref, cache: Path) -> Path:
        """The artifact's copy on this machine, every file just checked."""
        local = _copy(ref, cache)
        if not local.is_intact(ref.digest):
            self.touch()
            manifest = checked_manifest(ref, self.read(MANIFEST))
            with staging(local.path.parent) as staged:
                for name in manifest.files:
                    self.download(f"{self.key}/{name}", staged / name)
                verify(staged, manifest.files, ref.uri)
                local.publish(staged, manifest)
        local.touch()
        return local.path

    def delete(self, ref: Ref, cache: Path) -> None:
        """Deletes the artifact and its copy on this machine."""
        self.remove(MANIFEST)  # first: what a kill leaves is no artifact
        for item in [*self.below(self.prefix)]:
            self.client.delete_object(Bucket=self.bucket, Key=item["Key"])
        _copy(ref, cache).delete(ref, cache)

    def entries(self) -> Iterator[Entry]:
        """Every object below this key by its name there, hidden ones too, in the order of their names."""
        for item in self.below(self.prefix):
            yield Entry(item["Key"].removeprefix(self.prefix), item["Size"], item["LastModified"].timestamp())

    def modified(self, name: str) -> float | None:
        """When an object was written, None without one."""
        with _missing():
            found = self.client.head_object(Bucket=self.bucket, Key=f"{self.key}/{name}")
            return float(found["LastModified"].timestamp())
        return None

    def sweep(self, before: float, dry_run: bool) -> tuple[int, int]:
        """Number and bytes of artifacts' files whose upload in parts began earlier and never ended; it is aborted."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
        uploads = [item for page in pages for item in page.get("Uploads", [])]
        ours = [item for item in uploads if INSIDE.fullmatch(item["Key"].removeprefix(self.prefix))]
        old = [item for item in ours if item["Initiated"].timestamp() < before]
        size = 0
        for item in old:
            upload = {"Bucket": self.bucket, "Key": item["Key"], "UploadId": item["UploadId"]}
            with suppress(self.client.exceptions.NoSuchUpload):
                parts = self.client.get_paginator("list_parts").paginate(**upload)
                size += sum(part["Size"] for page in parts for part in page.get("Parts", []))
                if not dry_run:
                    self.client.abort_multipart_upload(**upload)
        return len(old), size

    def below(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Every object whose key starts so."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return (item for page in pages for item in page.get("Contents", []))

    def upload(self, file: Path, name: str) -> None:
        """Puts a file below this key."""
        self.client.upload_file(str(file), self.bucket, f"{self.prefix}{name}", **UPLOAD)

    def download(self, key: str, target: Path) -> None:
        """Fetches one object; where there is none, the check that follows says which file is missing."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with _missing():
            self.client.download_file(self.bucket, key, str(target), Config=TRANSFER)

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
        os.utime(copy)
        return copy


@contextmanager
def _missing() -> Iterator[None]:
    """Inside, an object that is not there is no error; only GET has one of its own for that."""
    try:
        yield
    except aws.ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise


def _copy(ref: Ref, cache: Path) -> Folder:
    """Where an artifact of S3 lies on this machine."""
    return Folder(cache / ref.uri.split("/")[-2] / ref.digest)


@contextmanager
def translated(uri: str, disk: str | Path) -> Iterator[None]:
    """Turns what boto3 and the file system raise into this project's errors; no message holds a secret."""
    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise StoreError(f"{uri}: {_NO_CREDENTIALS}") from error
    except (aws.ClientError, S3UploadFailedError) as error:
        raise _refusal(uri, error if isinstance(error, aws.ClientError) else error.__context__) from error
    except (*_NO_ANSWER, RetriesExceededError) as error:
        if (silent := _SILENT.get()) is not None:
            silent.append(uri)
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
