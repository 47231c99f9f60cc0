"""A server of the Kubernetes API's protocol that says, request by request, what a test has written down for it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Manifest = dict[str, Any]


@dataclass
class Answer:
    """One answer. A watch sends its lines, then ends the connection, or waits for the test's end."""

    body: Manifest = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lines: list[Manifest] | None = None
    stays: bool = False
    cut: bool = False
    """Whether the connection ends in the middle of the body."""


@dataclass
class Script:
    """What the server says, in order; and what it was asked."""

    answers: list[Answer]
    asked: list[dict[str, str]] = field(default_factory=list)
    """The query of each request, with the path as `path` and the verb as `method`."""
    sent: list[Manifest | None] = field(default_factory=list)
    """What each request had as its body."""
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def api_server(answers: list[Answer], folder: Path) -> Iterator[tuple[Script, Path]]:
    """The server, and a kubeconfig for it. Requests beyond the script wait for the end of the test."""
    script = Script(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            split = urlsplit(self.path)
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.sent.append(json.loads(data) if data else None)
            script.asked.append(dict(parse_qsl(split.query)) | {"path": split.path, "method": self.command})
            if len(script.asked) > len(script.answers):
                script.over.wait(30)
                self.close_connection = True
                return
            answer = script.answers[len(script.asked) - 1]
            body = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.lines is None:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if answer.cut else body)
                self.close_connection = answer.cut
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in answer.lines:
                self._chunk(json.dumps(line).encode() + b"\n")
            if answer.stays:
                script.over.wait(30)
            self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    kubeconfig = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "scripted",
        "clusters": [{"name": "scripted", "cluster": {"server": address}}],
        "users": [{"name": "nobody", "user": {"token": "none"}}],
        "contexts": [{"name": "scripted", "context": {"cluster": "scripted", "user": "nobody", "namespace": "here"}}],
    }
    kubeconfig.write_text(json.dumps(config))
    try:
        yield script, kubeconfig
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()


def listed(version: str, *items: Manifest, more: str = "") -> Answer:
    """A list."""
    return Answer(
        {"apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": more}, "items": list(items)}
    )


def refused(status: int, message: str, **headers: str) -> Answer:
    """An error, as a Status object."""
    return Answer({"kind": "Status", "code": status, "message": message}, status, headers)


def pod(name: str, version: str, phase: str = "Running") -> Manifest:
    """A small pod."""
    metadata = {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": version,
        "managedFields": [{"manager": "kubelet"}],
    }
    container = {"name": "trainer", "image": "trainer", "env": [{"name": "A", "value": "b"}]}
    return {"metadata": metadata, "spec": {"containers": [container], "volumes": []}, "status": {"phase": phase}}
