import errno
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tinybert.digest import content_digest
from tinybert.errors import SourceError, TransientError
from tinybert.sources import Source, check_pin, parse, resolve

PIN = "0123456789abcdef" * 4
OLD, NEW = "a" * 40, "b" * 40
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle", "code.py": b"1"}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hub:owner/name", Source("hub", "owner/name", None, None)),
        ("hub:owner/name/data/en@v1", Source("hub", "owner/name/data/en", "v1", None)),
        ("hub:owner/na.me-1@v1.0", Source("hub", "owner/na.me-1", "v1.0", None)),
        ("hub:name@refs/pr/3", Source("hub", "name", "refs/pr/3", None)),
        (f"hub:o/n@main#sha256={PIN.upper()}", Source("hub", "o/n", "main", PIN)),
        ("file:/a b/c#d.csv", Source("file", "/a b/c#d.csv", None, None)),
        ("file:///a/x@y", Source("file", "/a/x@y", None, None)),
        ("file:data/rows.csv", Source("file", "data/rows.csv", None, None)),
        ("file:~/\u00e9.csv", Source("file", "~/\u00e9.csv", None, None)),
        (f"s3://bucket/a/b.csv#sha256={PIN}", Source("s3", "bucket/a/b.csv", None, PIN)),
        ("package:module/path/inside", Source("package", "module/path/inside", None, None)),
        ("package:a.b/model/", Source("package", "a.b/model", None, None)),
        ("models:/name@champion", Source("models", "name@champion", None, None)),
        ("models:/my name/3", Source("models", "my name/3", None, None)),
    ],
)
def test_parse(uri, expected):
    source = parse(uri)
    assert source == expected
    assert parse(f"{source}#sha256={PIN}") == Source(source.scheme, source.location, source.revision, PIN)


@pytest.mark.parametrize(
    "uri",
    [
        *("", "owner/name", "http://host/x", "hub:", "hub:a--b/c", "hub:a/..", "hub:a/b@", "hub:.a/b"),
        *("hub:a/b@../../etc", "hub:a/b@-x", "hub:a/b@v 1", "file:", "file://host/path", "file:/a\nb", "file:/a\0"),
        *("s3:bucket/key", "s3://bucket", "s3://bucket/", "package:module", "package:/etc/passwd", "package:1a/b"),
        *("models:/name", "models:/name/latest", "models:name/3", "models:/a/b@c", "models:/@x"),
    ],
)
def test_parse_refuses_with_the_grammar(uri):
    with pytest.raises(SourceError) as caught:
        parse(uri)
    assert str(caught.value).startswith(f"source: found {uri!r}; write one of hub:owner/name@revision, ")
    assert "models:/name@alias" in str(caught.value)


@pytest.mark.parametrize("pin", ["", "abc", PIN + "0", "g" * 64, PIN + "\n"])
def test_parse_refuses_a_pin_that_is_no_digest(pin):
    with pytest.raises(SourceError, match=r"64 hex digits"):
        parse(f"file:/a#sha256={pin}")


@pytest.mark.parametrize(
    "uri",
    [
        f"https://user:{TOKEN}@huggingface.co/owner/name",
        f"hub:owner//name/{TOKEN}",
        "s3://AKIA:hunter2@bucket",
        "s3://AKIA:hun/ter2@bucket/key",
        "hub:me:hunter2@owner/name/x",
        "https://bucket.host/key?X-Amz-Signature=hunter2&x=1",
        "file:/a#sha256=token=hunter2",
    ],
)
def test_no_secret_in_a_message(uri):
    with pytest.raises(SourceError) as caught:
        parse(uri)
    assert not any(secret in str(caught.value) for secret in (TOKEN, "hunter2", "ter2"))


def test_no_secret_in_a_source_as_text():
    assert str(parse(f"hub:owner/name@{TOKEN}")) == "hub:owner/name@***"
    assert str(parse("file:///home/me@work/x")) == "file:/home/me@work/x"


@pytest.mark.parametrize("uri", ["s3://bucket/key", "models:/name@champion"])
def test_store_and_registry_are_left_to_tasks(uri):
    with pytest.raises(SourceError, match=r"are fetched by `tasks`, from the store or the registry"):
        resolve(uri)


def test_check_pin():
    check_pin(parse("file:/a"), "f" * 64)
    check_pin(parse(f"file:/a#sha256={PIN}"), PIN)
    with pytest.raises(SourceError) as caught:
        check_pin(parse(f"hub:o/n@v1#sha256={PIN}"), "f" * 64)
    assert str(caught.value) == (
        f"hub:o/n@v1 moved: pinned sha256 {PIN}, found {'f' * 64}; "
        f"name the commit that was pinned, or accept the new content with #sha256={'f' * 64}"
    )


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def test_file(tmp_path, monkeypatch):
    write(tmp_path, {"rows.csv": b"a", "model/model.safetensors": b"x"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(f"file:{tmp_path}/rows.csv") == tmp_path / "rows.csv"
    assert resolve(f"file://{tmp_path}/rows.csv#sha256={PIN}") == tmp_path / "rows.csv"
    assert resolve("file:rows.csv") == Path("rows.csv")
    assert resolve("file:~/model", "model") == tmp_path / "model"
    assert resolve("file:model") == Path("model")


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("file:{}/none", "dataset", "found nothing at .*/none; correct the path"),
        ("file:{}/rows.csv/below", "dataset", "found nothing at"),
        ("file:{}/" + "x" * 300, "dataset", "cannot be read .File name too long."),
        ("file:~nobody-here/x", "dataset", "home directory is unknown"),
        ("file:{}/empty", "dataset", "found no files in .*/empty; name a source that has some"),
        ("file:{}/hidden", "dataset", "found no files in"),
        ("file:{}/pipe", "dataset", "found no files in"),
        ("file:{}/broken", "dataset", "link.csv is a link to nothing; restore its target"),
        ("file:{}/rows.csv", "model", "found a file; a model is a directory with config.json"),
        ("file:{}/pickled", "model", "only safetensors is read, never pickles; convert it with save_pretrained"),
    ],
)
def test_file_errors(tmp_path, uri, kind, message):
    files = {"rows.csv": b"a", "hidden/.gitkeep": b"", "broken/a": b"", "pickled/pytorch_model.bin": b""}
    write(tmp_path, files | {"pickled/onnx/model.safetensors": b""})
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken/link.csv").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=message) as caught:
        resolve(uri.format(tmp_path), kind)
    assert str(caught.value).startswith("file:")


@pytest.fixture
def ordinary_user():
    """A user that permissions apply to: root sheds its rights for the test."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        if root:
            os.chown(name, 65534, -1)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            for path in Path(name).rglob("*"):
                path.chmod(0o755)
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("closed", ["data", "data/inner", "data/rows.csv", "data/inner/rows.csv"])
def test_unreadable(ordinary_user, closed):
    write(ordinary_user, {"data/rows.csv": b"a", "data/inner/rows.csv": b"b"})
    (ordinary_user / closed).chmod(0)
    with pytest.raises(SourceError, match=r"may not be read by this user; change its mode") as caught:
        resolve(f"file:{ordinary_user}/data")
    assert f"{ordinary_user}/{closed} may" in str(caught.value)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Three installed packages that fail when imported."""
    fail = b"raise AssertionError('imported')"
    write(tmp_path / "a", {"fixture_pkg/__init__.py": fail, "fixture_pkg/model/model.safetensors": b"x"})
    write(tmp_path / "a", {"fixture_pkg/sub/__init__.py": fail, "fixture_pkg/sub/rows.csv": b"a"})
    write(tmp_path / "a", {"fixture_space/one/a.csv": b"a", "fixture_module.py": fail, "secret.txt": b"s"})
    write(tmp_path / "b", {"fixture_space/two/b.csv": b"b"})
    monkeypatch.syspath_prepend(tmp_path / "b")
    monkeypatch.syspath_prepend(tmp_path / "a")
    return tmp_path


def test_package(packages):
    assert resolve("package:fixture_pkg/model", "model") == packages / "a/fixture_pkg/model"
    assert resolve("package:fixture_pkg.sub/rows.csv") == packages / "a/fixture_pkg/sub/rows.csv"
    assert resolve("package:fixture_space.two/b.csv") == packages / "b/fixture_space/two/b.csv"
    assert resolve("package:fixture_space/one") == packages / "a/fixture_space/one"
    assert not any(name.startswith("fixture_") for name in sys.modules)


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("no_such_pkg.sub/x", "dataset", "found no installed package no_such_pkg.sub; .*pip install no-such-pkg;"),
        ("fixture_pkg.none/x", "dataset", "found no installed package fixture_pkg.none"),
        ("fixture_module/x", "dataset", "found no installed package fixture_module"),
        ("__main__/x", "dataset", "found no installed package __main__"),
        ("fixture_pkg/none.csv", "dataset", "found nothing at .*/fixture_pkg/none.csv"),
        ("fixture_pkg/../secret.txt", "dataset", "leads out of the package"),
        ("fixture_pkg/sub/../../secret.txt", "dataset", "leads out of the package"),
        ("fixture_pkg/..", "dataset", "leads out of the package"),
        ("fixture_pkg/sub", "model", "only safetensors is read"),
    ],
)
def test_package_errors(packages, uri, kind, message):
    with pytest.raises(SourceError, match=f"^package:{uri}.*{message}"):
        resolve(f"package:{uri}", kind)
    assert not any(name.startswith("fixture_") for name in sys.modules)


RESOLVE = """
import sys
from tinybert.sources import resolve
assert "huggingface_hub" not in sys.modules
for call in sys.argv[1:]:
    kind, uri = call.split(" ")
    try:
        print("path", resolve(uri, kind))
    except Exception as error:
        assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
        print(type(error).__name__, str(error))
"""


def resolve_elsewhere(*calls: str, home: Path, **environment: str) -> list[str]:
    """Outcomes of `resolve` in a fresh process, since huggingface_hub reads its environment at import.

    A call is "model URI" or "dataset URI", an outcome "path PATH" or the error's class and message.
    """
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith("HF_") and "PROXY" not in k.upper()}
    defaults = {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    argv = [sys.executable, "-c", RESOLVE, *calls]
    done = subprocess.run(argv, env=kept | defaults | environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "hunter2" not in done.stdout
    return done.stdout.splitlines()


def cached(home: Path, repository: str, files: dict[str, bytes], ref: str = "main") -> Path:
    """A repository as the hub's cache holds it: blobs by digest, a ref, and a snapshot of links."""
    folder = home / "hub" / repository
    snapshot = folder / "snapshots" / OLD
    write(folder, {f"refs/{ref}": OLD.encode()})
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        write(folder, {f"blobs/{blob.name}": content})
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


def test_offline_from_the_cache(tmp_path):
    model = cached(tmp_path, "models--owner--name", {"config.json": b"{}", "model.safetensors": b"x"}, ref="v1")
    data = cached(tmp_path, "datasets--rows", {"train.csv": b"a,b"})
    several = cached(tmp_path, "datasets--owner--several", {"en/train.csv": b"a,b", "zh/train.csv": b"c,d"})
    cached(tmp_path, "models--owner--pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    named, by_commit, rows, inside, pickled, absent = resolve_elsewhere(
        "model hub:owner/name@v1",
        f"model hub:owner/name@{OLD}",
        "dataset hub:rows@main",
        "dataset hub:owner/several/zh@main",
        "model hub:owner/pickled",
        "model hub:owner/name",
        home=tmp_path,
        HF_HUB_OFFLINE="1",
    )
    assert named == by_commit == f"path {model}"
    assert rows == f"path {data}"
    assert inside == f"path {several}/zh"
    assert pickled.startswith("SourceError hub:owner/pickled: found no *.safetensors; only safetensors is read")
    assert absent.startswith(f"SourceError hub:owner/name: offline and not in the cache {tmp_path}/hub")
    assert "unset HF_HUB_OFFLINE" in absent


class Hub:
    """A loopback server that speaks as much of the hub's API as a download needs."""

    def __init__(self):
        self.refs = {"main": OLD, "v1": OLD}
        self.commits = {OLD: dict(MODEL), NEW: MODEL | {"model.safetensors": b"new weights"}}
        self.moves: dict[str, str] = {}
        self.faults: dict[str, tuple[str, int, str]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, headers, body = hub.answer(self.command, self.path, self.headers.get("authorization"))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        path = unquote(urlsplit(path).path)
        self.asked.append((method, path, token))
        for repository, (call, status, code) in self.faults.items():
            if repository in path and call in f"{method} {path}":
                return status, {"X-Error-Code": code}, b"<html>"
        if "/owner/none/" in path:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if "/revision/" in path or "/tree/" in path:
            return self.listing(path)
        commit, name = path.split("/resolve/")[1].split("/", 1)
        content = self.commits[commit][name]
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, content

    def listing(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if "/tree/" in path:
            files = self.commits[path.split("/tree/")[1]].items()
            rows = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files]
            return 200, {}, json.dumps(rows).encode()
        ref = path.split("/revision/")[1]
        commit = self.refs.get(ref)
        self.refs[ref] = self.moves.get(ref, commit)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return 200, {}, json.dumps({"id": "owner/name", "sha": commit, "siblings": []}).encode()

    def files_fetched(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for method, path, _ in self.asked if "/resolve/" in path}


@pytest.fixture
def hub():
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


def test_download_leaves_pickles_and_code(hub, tmp_path):
    calls = ["model hub:owner/name@v1"] * 2
    outcomes = resolve_elsewhere(*calls, home=tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    snapshot = tmp_path / "hub/models--owner--name/snapshots" / OLD
    assert outcomes == [f"path {snapshot}"] * 2
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "model.safetensors"]
    assert (snapshot / "model.safetensors").read_bytes() == b"weights"
    assert hub.files_fetched() == {"config.json", "model.safetensors"}
    assert ("GET", "/api/models/owner/name/revision/v1", f"Bearer {TOKEN}") in hub.asked


def test_download_only_what_is_read(hub, tmp_path):
    hub.commits[OLD] = {"data/train.parquet": b"rows", "README.md": b"card", "load.py": b"code", "x.pkl": b"pickle"}
    hub.refs["bare"] = NEW
    hub.commits[NEW] = {"pytorch_model.bin": b"pickle", "load.py": b"code"}
    calls = ["dataset hub:owner/name", "dataset hub:owner/name@bare", "model hub:owner/name@bare"]
    rows, no_rows, no_model = resolve_elsewhere(*calls, home=tmp_path, HF_ENDPOINT=hub.url)
    assert rows == f"path {tmp_path}/hub/datasets--owner--name/snapshots/{OLD}"
    assert no_rows.startswith("SourceError hub:owner/name@bare: found none of *.parquet, *.csv")
    assert no_model.startswith("SourceError hub:owner/name@bare: found no *.safetensors; only safetensors is read")
    assert hub.files_fetched() == {"train.parquet", "README.md"}


def test_revision_that_moved_fails_its_pin(hub, tmp_path):
    hub.moves = {"main": NEW}
    calls = ["model hub:owner/name@main"] * 2
    before, after = resolve_elsewhere(*calls, home=tmp_path, HF_ENDPOINT=hub.url)
    assert before.endswith(OLD)
    assert after.endswith(NEW)
    pinned, found = (content_digest(Path(outcome.removeprefix("path "))) for outcome in (before, after))
    expected = f"^hub:owner/name@main moved: pinned sha256 {pinned}, found {found}; name the commit that was pinned"
    with pytest.raises(SourceError, match=expected):
        check_pin(parse(f"hub:owner/name@main#sha256={pinned}"), found)


FAULTS = {
    "owner/private": ("/revision/", 401, "RepoNotFound"),
    "owner/token": ("/revision/", 401, ""),
    "owner/gated": ("/revision/", 403, "GatedRepo"),
    "owner/disabled": ("/revision/", 403, ""),
    "owner/busy": ("/revision/", 429, ""),
    "owner/down": ("/revision/", 503, ""),
    "owner/halfway": ("GET /owner", 500, ""),
    "owner/portal": ("/revision/", 200, ""),
}
EXPECTED = {
    "hub:owner/none": "SourceError .*: no such model repository .or it is private: set HF_TOKEN.$",
    "hub:owner/private": "SourceError .*: no such model repository .or it is private: set HF_TOKEN.$",
    "hub:owner/name@v9": "SourceError .* has no revision 'v9'; name a branch, .* as in hub:owner/name@main$",
    "hub:owner/token": "SourceError .* refuses .HTTP 401.; check the name, HF_TOKEN and HF_ENDPOINT",
    "hub:owner/gated": "SourceError .* is gated; accept its terms on its page, and set HF_TOKEN",
    "hub:owner/disabled": "SourceError .* refuses .HTTP 403.; check the name, HF_TOKEN and HF_ENDPOINT",
    "hub:owner/name.git": "SourceError .* the hub allows no such name",
    "hub:owner/portal": "SourceError .* the answer is not a hub's .JSONDecodeError.; check HF_ENDPOINT",
    "hub:owner/busy": "TransientError .* answers HTTP 429; try again later",
    "hub:owner/down": "TransientError .* answers HTTP 503; try again later",
    "hub:owner/halfway": "TransientError .* answers HTTP 500; try again later",
}


def test_faults_of_the_hub(hub, tmp_path):
    hub.faults = FAULTS
    outcomes = resolve_elsewhere(
        *(f"model {uri}" for uri in EXPECTED), home=tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN
    )
    for (uri, expected), outcome in zip(EXPECTED.items(), outcomes, strict=True):
        kind, message = outcome.split(" ", 1)
        assert message.startswith(uri)
        assert re.match(expected, f"{kind} {message}"), outcome


def test_unreachable_hub(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://me:hunter2@127.0.0.1:{closed.getsockname()[1]}"
        [outcome] = resolve_elsewhere("model hub:o/n", home=tmp_path, HF_ENDPOINT=endpoint)
    assert outcome == "TransientError hub:o/n: the hub cannot be reached (ConnectError); try again later"


def test_silent_hub(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {"HF_ENDPOINT": endpoint, "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        [outcome] = resolve_elsewhere("dataset hub:o/n", home=tmp_path, **environment)
    assert outcome == "TransientError hub:o/n: the hub cannot be reached (ReadTimeout); try again later"


def test_cache_that_cannot_be_written(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(SourceError, match=r"the cache .* cannot be written .No space left on device.; make room"):
        resolve("hub:owner/name")


def test_lost_download_is_transient(monkeypatch):
    def lost(*args, **kwargs):
        raise RuntimeError("Data processing error: hunter2")

    monkeypatch.setattr("huggingface_hub.snapshot_download", lost)
    with pytest.raises(TransientError, match=r"^hub:o/n: the hub cannot be reached .RuntimeError.; try again later$"):
        resolve("hub:o/n")
