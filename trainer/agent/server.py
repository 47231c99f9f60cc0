"""Thin HTTP around an agent: health for the kubelet, figures for Prometheus, and on worker 0 polls and state.

Every call but /healthz and /metrics needs the job's token.
"""

import hmac
import json
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pydantic import ValidationError

from trainer.wire.coordinator import AgentReport, Directive, JobState

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024
REQUEST_TIMEOUT_S = 10.0


class AgentServer:
    """Serves in threads of its own until closed."""

    def __init__(
        self,
        address: tuple[str, int],
        token: str,
        *,
        poll: Callable[[AgentReport], Directive] | None,
        state: Callable[[], JobState] | None,
        metrics: Callable[[], str],
    ) -> None:
        """`poll` and `state` are None on workers other than 0, which then answer 404.

        Raises:
            OSError: the port is taken.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/healthz":
                    self._reply(200, b"ok\n", "text/plain")
                elif self.path == "/metrics":
                    self._reply(200, metrics().encode(), "text/plain; version=0.0.4")
                elif self.path == "/v1/state" and state is not None:
                    if self._allowed():
                        self._reply(200, state().to_json())
                else:
                    self._reply(404, b"{}")

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                    self.close_connection = True
                    self._reply(413, b"{}")
                    return
                body = self.rfile.read(int(length))
                if self.path != "/v1/poll" or poll is None:
                    self._reply(404, b"{}")
                    return
                if not self._allowed():
                    return
                try:
                    report = AgentReport.model_validate_json(body)
                except ValidationError as error:
                    self._reply(400, json.dumps({"error": str(error.errors()[0]["msg"])}).encode())
                    return
                try:
                    answer = poll(report).to_json()
                except Exception as error:  # unanswered, worker after worker would wait for ever and say nothing
                    log.exception("a poll could not be answered worker=%d", report.index)
                    self._reply(500, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
                    return
                self._reply(200, answer)

            def _allowed(self) -> bool:
                given = self.headers.get("Authorization", "").encode()
                if hmac.compare_digest(given, b"Bearer " + token.encode()):
                    return True
                self._reply(401, b'{"error": "the token is missing or wrong"}')
                return False

            def _reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                log.debug(format, *args)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 1024

            def handle_error(self, request: object, client_address: object) -> None:
                log.debug("request failed client=%s", client_address, exc_info=True)

        self._server = Server(address, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; with port 0 asked for, the one that was given."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
