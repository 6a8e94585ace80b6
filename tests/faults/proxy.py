"""Stands between the runs and the S3 server: shows a watcher every request, and is slow, busy or hostile when told."""

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

Mode = Literal["pass", "slow", "hung", "busy", "denied"]
Before = Callable[[str, str], bool]
"""Called with method and path; True: whoever asked is dead, the request goes no further."""
After = Callable[[str, str, int], bool]
"""Called with the status as well, before the answer is given; True: nobody is there to take it."""

SLOWNESS = 0.5
"""Seconds that each request waits where the store is slow."""
REFUSALS = {"busy": (503, "SlowDown"), "denied": (403, "AccessDenied")}
PER_CONNECTION = {"connection", "expect", "keep-alive", "transfer-encoding"}


class Proxy(ThreadingHTTPServer):
    """An S3 endpoint on loopback that hands on to another. Signatures stay valid: the Host header is the client's."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, before: Before, after: After) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._upstream = urlsplit(upstream).netloc
        self.before, self.after = before, after
        self._mode: Mode = "pass"
        self._until = 0.0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def mode(self) -> Mode:
        """How it behaves now."""
        return self._mode if time.monotonic() < self._until else "pass"

    def behave(self, mode: Mode, seconds: float = 0.0) -> None:
        """Behave like this from now on, for some seconds."""
        self._mode, self._until = mode, time.monotonic() + seconds

    def forward(self, request: "_Handler", body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the real server says: status, headers, body."""
        connection = http.client.HTTPConnection(self._upstream, timeout=120)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in PER_CONNECTION:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.behave("pass")
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed in the middle of a request is what we are here for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.before(self.command, self.path):
            self.close_connection = True
            return
        mode = self.server.mode
        if mode in REFUSALS:
            return self._refuse(*REFUSALS[mode])
        if mode == "slow":
            time.sleep(SLOWNESS)
        while self.server.mode == "hung":
            time.sleep(0.1)
        try:
            status, headers, content = self.server.forward(self, body)
        except (OSError, http.client.HTTPException):  # the server is down: the client sees what it would see without us
            self.close_connection = True
            return
        if self.server.after(self.command, self.path, status):
            self.close_connection = True
            return
        self._tell(status, headers, content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

    def _refuse(self, status: int, code: str) -> None:
        content = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>told to</Message></Error>'.encode()
        self._tell(status, [("Content-Type", "application/xml")], content)

    def _tell(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        told = [(name, value) for name, value in headers if name.lower() not in PER_CONNECTION]
        if "content-length" not in {name.lower() for name, _ in told} and status not in (204, 304):
            told.append(("Content-Length", str(len(content))))
        self.send_response_only(status)
        for name, value in told:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: a run makes hundreds of requests."""
