"""A connection to the API server: the kubeconfig read as kubectl does, requests over HTTP, and what a refusal means to a person.

The official client is used for what is hard (kubeconfig, credentials).
"""

import contextlib
import json
import logging
import os
import time
from typing import Any
from urllib.parse import urlencode

from orchestrator.kube.errors import (
    AlreadyExists,
    ClusterError,
    ClusterUnreachable,
    Forbidden,
    Gone,
    NotFound,
    Rejected,
    ServerTrouble,
)
from orchestrator.kube.objects import Manifest
from orchestrator.kube.streams import first_words
from orchestrator.text import first_line

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
READ_S = 30.0
BUSY_TRIES = 4
_BUSY_S = 30.0
"""How often, and in all for how long, a server that says when to come again is asked again."""
STARTING_S = 60.0
"""An API server that starts refuses, for some seconds, what it grants later (roles and kinds are not loaded yet): so long
after it was away, or after it granted the same, a refusal is taken for that."""
_CONNECTIONS = 24
"""Preflight asks much at once; connections beyond this number are closed after use."""


class Connection:
    """To one namespace of one cluster. Every request may raise ClusterUnreachable and Forbidden."""

    def __init__(self, context: str | None = None, namespace: str | None = None) -> None:
        """Read the kubeconfig as kubectl does (KUBECONFIG, ~/.kube/config), or the pod's own service account.

        Raises:
            ClusterUnreachable: no kubeconfig, or no such context in it.
        """
        from kubernetes.client.rest import RESTClientObject

        configuration, self.context, default_namespace = _configured(context)
        self.namespace = namespace or default_namespace
        configuration.connection_pool_maxsize = _CONNECTIONS
        self._configuration = configuration
        self._away_s = -STARTING_S
        """When the API server did not answer last, on the monotonic clock."""
        self._pool = RESTClientObject(configuration).pool_manager

    @property
    def server(self) -> str:
        """The address of the API server."""
        return str(self._configuration.host)

    def _json(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        content: str = "application/json",
    ) -> Manifest:
        response = self._send(method, path, what, query=query, body=body, content=content)
        data = self._body(response)
        try:
            answer: Manifest = json.loads(data)
        except ValueError:
            raise ServerTrouble(
                f"cannot {what}: the answer of {self._configuration.host} is no JSON", remedy="try again in a moment"
            ) from None
        return answer

    def _body(self, response: Any) -> bytes:
        """All of a response. Raises ClusterUnreachable where the connection breaks before its end."""
        import urllib3

        with contextlib.closing(response):
            try:
                data: bytes = response.read()
            except urllib3.exceptions.HTTPError as error:
                raise self._unreachable(error) from None
            return data

    def _unreachable(self, error: Exception) -> ClusterUnreachable:
        self._away_s = time.monotonic()
        return ClusterUnreachable(
            f"the API server {self._configuration.host} does not answer: {first_words(error)}",
            remedy=f"check the network and the context {self.context} (kubectl cluster-info)",
        )

    def _send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        content: str = "application/json",
        read_s: float | None = READ_S,
    ) -> Any:
        """The response, its body unread, of a request that succeeded."""
        import urllib3

        headers = {"Accept": "application/json", "User-Agent": "orch"} | self._credentials()
        if body is not None:
            headers["Content-Type"] = content
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        data = json.dumps(body).encode() if body is not None else None
        waited_s = 0.0
        for tries_left in reversed(range(BUSY_TRIES)):
            try:
                response = self._pool.request(
                    method,
                    url,
                    body=data,
                    headers=headers,
                    preload_content=False,
                    # Only reading may be repeated: a second POST would meet the object that the first one made.
                    retries=urllib3.Retry(2, backoff_factor=0.2, respect_retry_after_header=False)
                    if method == "GET"
                    else False,
                    timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_s),
                )
            except urllib3.exceptions.HTTPError as error:
                raise self._unreachable(error) from None
            if response.status < 400:
                return response
            answer = self._body(response)
            # 429: the server took no notice of the request and says when to come again; so any verb may be repeated.
            pause_s = _retry_after_s(response.headers.get("Retry-After")) if response.status == 429 else None
            if pause_s is None or not tries_left or waited_s + pause_s > _BUSY_S:
                raise self._refusal(response.status, answer, what)
            log.debug("%s: busy, again in %.0f s", what, pause_s)
            time.sleep(pause_s)
            waited_s += pause_s
        raise AssertionError("the last try returns or raises")

    def _credentials(self) -> dict[str, str]:
        settings = self._configuration.auth_settings().values()
        return {item["key"]: item["value"] for item in settings if item["in"] == "header" and item["value"]}

    def _refusal(self, status: int, data: bytes, what: str) -> ClusterError:
        try:
            answer = json.loads(data)
            message = str(answer.get("message") or answer)
        except (ValueError, AttributeError):
            message = data.decode(errors="replace").strip()[:500] or f"HTTP status {status}"
        if status == 401:
            return Forbidden(
                f"cannot {what}: the cluster does not accept the credentials of context {self.context}",
                remedy="log in again (for GKE: gcloud auth login), then try once more",
            )
        if status == 403 and "exceeded quota" in message:
            return Rejected(f"cannot {what}: {message}", remedy="ask for less, or free some of the quota")
        if status == 403 and time.monotonic() - self._away_s < STARTING_S:
            return ServerTrouble(f"cannot {what}: the API server, which was away, still refuses it: {message}")
        if status == 403:
            return Forbidden(
                f"cannot {what} in namespace {self.namespace}: {message}",
                remedy="ask an administrator for the role orch-submitter (k8s/setup), or use another --namespace",
            )
        if status == 404:
            return NotFound(f"cannot {what} in namespace {self.namespace}: {message}")
        if status == 410:
            return Gone(f"cannot {what}: {message}")
        if status == 409:
            return AlreadyExists(f"cannot {what} in namespace {self.namespace}: {message}")
        if "failed calling webhook" in message:
            return ServerTrouble(
                f"cannot {what}: an admission webhook of the cluster does not answer: {message}",
                remedy="try again in a moment; if it stays, whoever runs that add-on (such as Kueue) must look at it",
            )
        if status in (429, 500, 502, 503, 504) and "admission webhook" not in message:
            return ServerTrouble(
                f"cannot {what}: the API server answers {status}: {message}", remedy="try again in a moment"
            )
        return Rejected(f"cannot {what}: {message}")


def _configured(context: str | None) -> tuple[Any, str, str]:
    """The official client's configuration, the name of the context, and its namespace."""
    from kubernetes import client
    from kubernetes import config as kube_config
    from kubernetes.config.config_exception import ConfigException
    from yaml import YAMLError

    config: Any = kube_config  # its functions carry no types
    configuration: Any = client.Configuration()
    # The client itself looks at KUBECONFIG once, when it is imported.
    paths = os.environ.get("KUBECONFIG") or None
    try:
        contexts, active = config.list_kube_config_contexts(paths)
        chosen = active if context is None else next((item for item in contexts if item["name"] == context), None)
        if chosen is None:
            names = ", ".join(item["name"] for item in contexts) or "none"
            raise ClusterUnreachable(
                f"the kubeconfig has no context {context}",
                remedy=f"choose one of: {names} (kubectl config get-contexts)",
            )
        config.load_kube_config(paths, context=chosen["name"], client_configuration=configuration)
        return configuration, chosen["name"], chosen["context"].get("namespace") or "default"
    except YAMLError as error:
        raise ClusterUnreachable(
            f"the kubeconfig cannot be read: {' '.join(str(error).split())}",
            remedy=f"mend {paths or '~/.kube/config'}, or set KUBECONFIG to another file",
        ) from None
    except ConfigException as error:
        try:
            if context is not None:
                raise ConfigException("a context needs a kubeconfig")
            config.load_incluster_config(client_configuration=configuration)
        except ConfigException:
            reason = first_line(error) or "no kubeconfig"
            raise ClusterUnreachable(
                f"no Kubernetes cluster is configured: {reason}",
                remedy="set KUBECONFIG, or run the job on this machine: orch run",
            ) from None
        return configuration, "in-cluster", _own_namespace()


def _retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header; None where there is none, or it names a date: no API server sends one."""
    return float(header) if header is not None and header.strip().isdecimal() else None


def _own_namespace() -> str:
    with contextlib.suppress(OSError), open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
        return file.read().strip()
    return "default"
