"""A small registry of images over real HTTP, in this process: it asks for logins, loses connections, and tells what it was asked.

tests/e2e uses a registry as clusters have it; this one makes the trouble that such a one makes too seldom.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>blobs|manifests)/(?P<rest>[^/]+|uploads/.*)")

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Registry:
    """What the registry holds, and how it behaves."""

    login: tuple[str, str] | None = None
    """User and password that it wants; None: anybody may do everything."""
    scheme: str = "Bearer"
    """Bearer: tokens from /token. Basic: the password with each request."""
    address: str = ""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """(repository, digest) -> bytes."""
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    """(repository, tag or digest) -> media type and bytes."""
    troubles: list[tuple[str, str, int]] = field(default_factory=list)
    """(method, part of the path, status) of requests that fail, once each; status 0 cuts the connection."""
    asked: list[str] = field(default_factory=list)
    """`METHOD path` of every request."""
    scopes: list[str] = field(default_factory=list)
    """What tokens were asked for."""

    def image(self, repository: str, tag: str = "latest", *, layers: tuple[bytes, ...] = (), **config: object) -> str:
        """Put an image there; returns its name by digest."""
        body = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, **config}
        settings = json.dumps(body).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": {"digest": self.blob(repository, settings), "size": len(settings)},
                "layers": [
                    {"mediaType": _LAYER, "digest": self.blob(repository, layer), "size": len(layer)}
                    for layer in layers
                ],
            }
        ).encode()
        return self.manifest(repository, tag, manifest, "application/vnd.oci.image.manifest.v1+json")

    def manifest(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        """Put a manifest or an index there; returns its name by digest."""
        for target in (tag, digest_of(raw)):
            self.manifests[repository, target] = (media_type, raw)
        return f"{self.address}/{repository}@{digest_of(raw)}"

    def blob(self, repository: str, data: bytes) -> str:
        """Put a blob there; returns its digest."""
        self.blobs[repository, digest_of(data)] = data
        return digest_of(data)

    def count(self, start: str) -> int:
        """How many requests began like this: "PUT /v2/mine/blobs"."""
        return sum(line.startswith(start) for line in self.asked)


def digest_of(data: bytes) -> str:
    """sha256:..."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def serving(registry: Registry) -> Iterator[Registry]:
    """Serve it on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": registry}))
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        registry = self.registry
        registry.asked.append(f"{self.command} {self.path}")
        for trouble in registry.troubles:
            method, part, status = trouble
            if method == self.command and part in self.path:
                registry.troubles.remove(trouble)
                if status == 0:
                    self.close_connection = True
                    self.connection.close()
                else:
                    self._answer(status, b"{}")
                return
        place = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(place.query).items()}
        if place.path == "/token":
            self._give_token(parse_qs(place.query).get("scope", []))
        elif not self._is_allowed():
            realm = f'Bearer realm="http://{registry.address}/token",service="tests"'
            self._answer(
                401, _error("UNAUTHORIZED"), challenge=realm if registry.scheme == "Bearer" else 'Basic realm="x"'
            )
        elif match := _PATH.fullmatch(place.path):
            repository, kind, rest = match["repository"], match["kind"], match["rest"]
            if kind == "manifests":
                self._manifest(repository, rest, body)
            elif rest.startswith("uploads/"):
                self._upload(repository, query, body)
            else:
                self._found(registry.blobs.get((repository, rest)), "application/octet-stream")
        else:
            self._answer(200, b"{}")

    def _manifest(self, repository: str, target: str, body: bytes) -> None:
        if self.command == "PUT":
            self.registry.manifest(repository, target, body, self.headers["Content-Type"])
            self._answer(201)
        else:
            media_type, raw = self.registry.manifests.get((repository, target), ("", None))
            self._found(raw, media_type)

    def _upload(self, repository: str, query: dict[str, str], body: bytes) -> None:
        source = self.registry.blobs.get((query.get("from", ""), query.get("mount", "")))
        if source is not None:
            self.registry.blob(repository, source)
            self._answer(201)
        elif self.command == "PUT":
            self.registry.blob(repository, body)
            self._answer(201 if digest_of(body) == query["digest"] else 400)
        else:
            self._answer(202 if self.command == "POST" else 204, location=f"/v2/{repository}/blobs/uploads/1?state=x")

    def _is_allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.registry.login is None:
            return True
        return given == ("Bearer good" if self.registry.scheme == "Bearer" else self._password())

    def _give_token(self, scopes: list[str]) -> None:
        self.registry.scopes += scopes
        known = self.headers.get("Authorization") == self._password()
        self._answer(200 if known else 401, b'{"token": "good"}' if known else _error("UNAUTHORIZED"))

    def _password(self) -> str:
        return "Basic " + base64.b64encode(":".join(self.registry.login or ("", "")).encode()).decode()

    def _found(self, data: bytes | None, media_type: str) -> None:
        if data is None:
            self._answer(404, _error("NOT_FOUND"))
        else:
            self._answer(200, data, media_type=media_type)

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        media_type: str = "application/json",
        location: str = "",
        challenge: str = "",
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", media_type)
        if location:
            self.send_header("Location", location)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
