"""Registries of images: what an image is (`describe`), and the few requests that it takes to push one.

The OCI distribution API over `requests`. Of the clients on PyPI none tells errors apart, tries again, mounts blobs and knows
credential helpers; the requests themselves are few. Blobs are sent whole: chunks are refused by some registries.
"""

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from orchestrator.image.name import DOCKER_HUB, Reference, is_loopback, parse_reference
from orchestrator.image.registry_auth import RegistryAuth
from trainer.errors import OrchError
from trainer.exit_codes import ExitCode
from trainer.retry import Backoff, retry

log = logging.getLogger(__name__)

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, _DOCKER_MANIFEST, _DOCKER_LIST))
_DOCUMENT_MAX_BYTES = 8 << 20
_CONNECT_S = 5.0
_READ_S = 60.0
_TRIES = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0
_AGAIN = (429, 500, 502, 503, 504)
PLATFORM = "linux/amd64"
T = TypeVar("T")


class RegistryError(OrchError):
    """A registry did not do what was asked."""


class ImageNotFound(RegistryError):
    """There is no such image, or no such repository."""


class RegistryDenied(RegistryError):
    """Credentials are missing, wrong, or do not suffice. Some registries say this of images that are not there, too."""


class RegistryUnreachable(RegistryError):
    """No answer, or one that another try may change: time-outs, resets, 429, 5xx."""

    code = ExitCode.LOST_PEER


@dataclass(frozen=True)
class ImageInfo:
    """What a registry says of an image."""

    digest: str
    """Of what the name stands for: an index, where the image has one."""
    platforms: tuple[str, ...]
    """linux/amd64, linux/arm64/v8, ..."""
    size_bytes: int
    """What a node pulls: the layers as they are stored, of the platform that was asked for, else of the first."""
    labels: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A manifest or an index, as stored."""

    digest: str
    media_type: str
    raw: bytes

    @property
    def content(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def is_index(self) -> bool:
        return self.media_type in (OCI_INDEX, _DOCKER_LIST)


def describe(ref: str, *, platform: str = PLATFORM, insecure: Collection[str] = ()) -> ImageInfo:
    """Ask the registry about an image: at most three small requests, nothing of its layers.

    Args:
        ref: as a job file names it.
        platform: whose size and labels to tell, where the image has several.
        insecure: registries that may be spoken to by plain HTTP, besides those of this machine.

    Raises:
        ConfigError: no name of an image, or credentials that cannot be read.
        ImageNotFound, RegistryDenied, RegistryUnreachable, RegistryError: what the registry, or its silence, says.
    """
    reference = parse_reference(ref)
    with Repository(reference, insecure=insecure) as repository:
        top = repository.document(reference.target)
        manifest = top
        platforms: tuple[str, ...] = ()
        if top.is_index:
            # Attestations stand in an index as images for unknown/unknown.
            entries = {
                name: entry for entry in top.content["manifests"] if "unknown" not in (name := platform_of(entry))
            }
            platforms = tuple(entries)
            entry = entries.get(platform) or next(iter(entries.values()), None)
            if entry is None:
                return ImageInfo(top.digest, (), 0)
            manifest = repository.document(entry["digest"])
        config = repository.config(manifest)
    content = manifest.content
    settings = config.get("config") or {}
    return ImageInfo(
        digest=top.digest,
        platforms=platforms or (platform_of({"platform": config}),),
        size_bytes=sum(layer["size"] for layer in content.get("layers", [])),
        labels=settings.get("Labels") or {},
        entrypoint=tuple(settings.get("Entrypoint") or ()),
    )


def platform_of(entry: Mapping[str, Any]) -> str:
    """`os/architecture[/variant]` of an entry of an index."""
    platform = entry.get("platform") or {}
    parts = [platform.get("os", "unknown"), platform.get("architecture", "unknown"), platform.get("variant")]
    return "/".join(part for part in parts if part)


class Repository:
    """One repository of a registry, over one session. Every method may raise RegistryDenied and RegistryUnreachable."""

    def __init__(self, reference: Reference, *, writes: bool = False, insecure: Collection[str] = ()) -> None:
        self.reference = reference
        host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
        plain = is_loopback(reference.registry) or reference.registry in insecure
        self._base = f"{'http' if plain else 'https'}://{host}/v2/"
        self._session = requests.Session()
        # Requests that change nothing are tried again below us; blobs that break off, in `persistently`.
        below = urllib3.Retry(
            total=_TRIES - 1,
            connect=2,
            backoff_factor=0.3,
            status_forcelist=_AGAIN,
            allowed_methods=("HEAD", "GET"),
            raise_on_status=False,
            respect_retry_after_header=True,
        )
        self._session.mount("http://", HTTPAdapter(max_retries=below))
        self._session.mount("https://", HTTPAdapter(max_retries=below))
        self._auth = RegistryAuth(reference, urlsplit(self._base).netloc, writes=writes, insecure=plain)

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def document(self, target: str) -> Document:
        """The manifest or index of a tag or digest; its bytes are checked against the digest.

        Raises:
            ImageNotFound: there is none.
        """
        response = self._ask(
            "GET", self._url("manifests", target), headers={"Accept": _ACCEPT}, what=self._named(target)
        )
        raw = response.content
        digest = sha256(raw)
        if target.startswith("sha256:") and digest != target:
            raise RegistryError(f"{self.reference.registry} answered with other bytes than those of {target}")
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        return Document(digest, media_type, raw)

    def config(self, manifest: Document) -> dict[str, Any]:
        """The configuration of an image. A manifest that is no image's has none, and gives an empty one."""
        descriptor = manifest.content.get("config")
        if descriptor is None:
            return {}
        raw = b"".join(self.blob(descriptor["digest"]))
        if sha256(raw) != descriptor["digest"]:
            raise RegistryError(f"{self.reference.registry} answered with other bytes than {descriptor['digest']}")
        parsed: dict[str, Any] = json.loads(raw)
        return parsed

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        try:
            self._ask("HEAD", self._url("blobs", digest), what=digest)
        except ImageNotFound:
            return False
        return True

    def blob(self, digest: str) -> Iterator[bytes]:
        """The bytes of a blob as they arrive; unchecked. Ending early closes the connection."""
        with self._stream(digest) as response:
            yield from response.iter_content(1 << 20)

    def mount(self, digest: str, source: Reference) -> bool:
        """Have a blob of another repository of the same registry appear in this one, without sending it."""
        self._auth.also_read(source.repository)
        url = f"{self._url('blobs', 'uploads/')}?mount={digest}&from={source.repository}"
        response = self._ask("POST", url, what=self.reference.name)
        if response.status_code == 201:
            return True
        # 202: the registry began an upload instead, which nobody will go on with.
        with contextlib.suppress(RegistryError):
            self._ask("DELETE", self._location(response), what=self.reference.name)
        return False

    def upload(
        self,
        digest: str,
        size_bytes: int,
        open_content: Callable[[], contextlib.AbstractContextManager[Any]],
        progress: Callable[[int], None] = lambda sent: None,
    ) -> None:
        """Send a blob in one request, again from its beginning where that breaks off.

        Args:
            open_content: opens its bytes; called once for each try.
            progress: told how many bytes were sent so far.
        """

        def once() -> None:
            begun = self._ask("POST", self._url("blobs", "uploads/"), what=self.reference.name)
            url = self._location(begun)
            url += ("&" if "?" in url else "?") + f"digest={digest}"
            with open_content() as content:
                body = _Body(content, size_bytes, progress)
                headers = {"Content-Type": "application/octet-stream"}
                self._ask("PUT", url, what=self.reference.name, data=body, headers=headers)

        persistently(once)

    def upload_bytes(self, data: bytes) -> None:
        """Send a small blob."""
        self.upload(sha256(data), len(data), lambda: io.BytesIO(data))

    def copy(self, digest: str, size_bytes: int, source: "Repository", progress: Callable[[int], None]) -> None:
        """Send a blob that another registry has, through this machine's memory."""

        @contextlib.contextmanager
        def content() -> Iterator[Any]:
            with source._stream(digest) as response:
                yield response.raw

        self.upload(digest, size_bytes, content, progress)

    def put_manifest(self, target: str, raw: bytes, media_type: str) -> None:
        """Store a manifest under a tag."""
        headers = {"Content-Type": media_type}
        url = self._url("manifests", target)
        persistently(lambda: self._ask("PUT", url, what=self.reference.name, data=raw, headers=headers))

    @contextlib.contextmanager
    def _stream(self, digest: str) -> Iterator[requests.Response]:
        headers = {"Accept-Encoding": "identity"}
        response = self._ask("GET", self._url("blobs", digest), what=digest, headers=headers, stream=True)
        with response, self._network_errors():
            yield response

    def _named(self, target: str) -> str:
        return f"{self.reference.name}{'@' if target.startswith('sha256:') else ':'}{target}"

    def _url(self, kind: str, rest: str) -> str:
        return f"{self._base}{self.reference.repository}/{kind}/{rest}"

    def _location(self, response: requests.Response) -> str:
        url = urljoin(response.url, response.headers.get("Location", ""))
        # Registries behind a proxy that ends TLS at times name themselves by http.
        return url.replace("http://", "https://", 1) if self._base.startswith("https:") else url

    def _ask(
        self,
        method: str,
        url: str,
        *,
        what: str,
        stream: bool = False,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        with self._network_errors():
            options: dict[str, Any] = {"headers": headers, "stream": stream, "timeout": (_CONNECT_S, _READ_S)}
            response = self._session.request(method, url, data=data, auth=self._auth, **options)
            if response.status_code == 401 and self._auth.answer(self._session, response):
                if isinstance(data, _Body) and data.sent:
                    raise RegistryUnreachable(f"{self.reference.registry}: the token ran out during an upload")
                response = self._session.request(method, url, data=data, auth=self._auth, **options)
        if response.status_code >= 400:
            raise _refusal(response, what, self.reference.registry, named=self._auth.is_named)
        return response

    @contextlib.contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Errors of the network as RegistryUnreachable."""
        registry = self.reference.registry
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise RegistryUnreachable(
                f"the registry {registry} has no certificate that is trusted here: {_cause(error)}",
                remedy="set REQUESTS_CA_BUNDLE to your authority's certificates; for a registry without TLS: "
                f"--insecure-registry {registry}",
            ) from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise RegistryUnreachable(
                f"the registry {registry} does not answer: {_cause(error)}",
                remedy="check the name in the job file and the network (a proxy is read from HTTPS_PROXY), then try again",
            ) from None


class _Body:
    """A blob as a request's body: of known length, so that it is sent as it is and not in chunks."""

    def __init__(self, content: IO[bytes], size_bytes: int, progress: Callable[[int], None]) -> None:
        self._content, self._size_bytes, self._progress = content, size_bytes, progress
        self.sent = 0

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        while part := self.read(1 << 16):
            yield part

    def read(self, size: int = -1) -> bytes:
        part = self._content.read(max(size, 1 << 18))
        self.sent += len(part)
        self._progress(self.sent)
        return part


def persistently(action: Callable[[], T]) -> T:
    """Do it again, after a pause that doubles, while the registry does not answer. The last error is the one raised."""
    return retry(action, RegistryUnreachable, Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S), tries=_TRIES)


def sha256(data: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _refusal(response: requests.Response, what: str, registry: str, *, named: bool) -> RegistryError:
    status = response.status_code
    said = _message(response)
    if status in (401, 403):
        who = "with the credentials at hand" if named else "without credentials"
        return RegistryDenied(
            f"{registry} refuses {what} {who} ({status}{said})",
            remedy=f"log in (docker login {registry}, or its cloud's credential helper), get read or write access to the "
            "repository, and check its name: some registries answer like this for what is not there",
        )
    if status == 404:
        return ImageNotFound(
            f"there is no {what} in its registry{said}", remedy="check registry, repository and tag or digest"
        )
    if status in _AGAIN:
        return RegistryUnreachable(f"{registry} answers {status}{said}", remedy="try again in a minute")
    return RegistryError(f"{registry} refuses {what}: {status}{said}")


def _message(response: requests.Response) -> str:
    try:
        first = response.json()["errors"][0]
        text = " ".join(str(first.get(key) or "") for key in ("code", "message"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    return f": {text.strip()[:300]}"


def _cause(error: BaseException) -> str:
    """The innermost reason, without the names of objects in memory that wrap it."""
    while inner := next((item for item in _wrapped(error) if isinstance(item, BaseException)), None):
        error = inner
    text = str(error).rpartition("object at 0x")[2]
    return (text.partition(">: ")[2] or text.partition("): ")[2] or text) or type(error).__name__


def _wrapped(error: BaseException) -> tuple[object, ...]:
    return (getattr(error, "reason", None), *error.args)
