"""The search for secrets finds them in every disguise; and no message of ours carries one out of a URL."""

import base64
import http.server
import logging
import sqlite3
import threading
import traceback
from urllib.parse import quote

import pytest

from tasks.store import Store
from tasks.tracking import Tracker
from tests.security.canaries import disguises, files, leaks
from tinybert.errors import InputError, TransientError

SECRET = "canary/W9+kzQ4vT=7p"


@pytest.mark.parametrize("user", ["", "u", "me", "user"])
def test_a_secret_in_a_header_is_found_wherever_it_stands(user):
    header = b"Basic " + base64.b64encode(f"{user}:{SECRET}\n".encode())
    assert leaks(iter([("header", header)]), {"it": SECRET}) == {("it", "header")}


@pytest.mark.parametrize("safe", ["", "/"])
def test_a_quoted_secret_is_found(safe):
    url = f"http://me:{quote(SECRET, safe=safe)}@host/".encode()
    assert leaks(iter([("url", url)]), {"it": SECRET}) == {("it", "url")}


def test_another_secret_is_not_found():
    other = base64.b64encode(b"canary-of-someone-else") + b" canary/W9"
    assert leaks(iter([("there", other)]), {"it": SECRET}) == set()
    assert min(map(len, disguises(SECRET))) > 18


def test_a_secret_is_found_in_files_databases_and_names(tmp_path):
    (tmp_path / "log").write_text(f"token {SECRET}")
    (tmp_path / "known").write_text(SECRET)
    (tmp_path / f"{quote(SECRET, safe='')}.txt").touch()
    with sqlite3.connect(tmp_path / "kept.db") as database:
        database.execute("create table logs (message text)")
        database.execute("insert into logs values (?)", ["x" * 4050 + SECRET + "x" * 9000])
    found = {place for _, place in leaks(files(tmp_path, tmp_path / "known"), {"it": SECRET})}
    assert found == {"log", f"{quote(SECRET, safe='')}.txt", "kept.db, dumped"} | (found & {"kept.db"})


def chain(error: BaseException) -> bytes:
    """All that a log shows of an error."""
    return "".join(traceback.format_exception(error)).encode()


@pytest.mark.parametrize(
    "endpoint",
    [f"http://key:{quote(SECRET, safe='')}@127.0.0.1:9", f"http://{quote(SECRET, safe='')}@no host/"],
    ids=["no answer", "no URL"],
)
def test_a_secret_in_the_endpoint_of_s3_is_not_told(endpoint, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    with pytest.raises((InputError, TransientError)) as caught:
        Store("s3://artifacts/here", tmp_path / "cache").put("model", tmp_path / "model")
    assert leaks(iter([("error", chain(caught.value))]), {"it": SECRET}) == set()


class Locked(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow does to somebody it does not know."""

    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(params=[401, 403])
def locked(request):
    server = http.server.HTTPServer(("127.0.0.1", 0), Locked)
    server.status = request.param
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_flow_that_mlflow_locks_out_ends_with_what_to_set(locked, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    uri = f"http://me:{quote(SECRET, safe='')}@127.0.0.1:{locked.server_port}"
    with pytest.raises(InputError) as caught:
        Tracker(uri, "reviews", tmp_path / "spool").start_flow("flow-1", "reviews", {})
    message = str(caught.value)
    assert message.startswith(f"MLflow at http://127.0.0.1:{locked.server_port}: it ")
    assert str(locked.status) in message
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in message
    assert "\n" not in message
    told = chain(caught.value) + caplog.text.encode()
    assert leaks(iter([("told", told), *files(tmp_path)]), {"it": SECRET}) == set()


def test_a_stage_that_mlflow_locks_out_goes_on(locked, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "tinybert")
    run = Tracker(f"http://127.0.0.1:{locked.server_port}", "reviews", tmp_path).start_stage("flow-1", "layers", {})
    run.log_metrics({"loss": 1.0}, 1)
    run.close("FINISHED")
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    assert "the work goes on" in caplog.text
