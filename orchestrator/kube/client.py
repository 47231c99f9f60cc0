"""The cluster: the verbs a user knows from kubectl, on plain dicts.

It uses the official client for what is hard (exec) and speaks HTTP for the rest, so that an object sent is exactly the object
rendered. What it raises is for a person: which verb on which object was refused.
"""

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from orchestrator.kube.cache import Change, trim
from orchestrator.kube.connection import BUSY_TRIES, READ_S, Connection
from orchestrator.kube.errors import (
    AlreadyExists,
    ClusterError,
    ClusterUnreachable,
    Gone,
    NotFound,
    ServerTrouble,
)
from orchestrator.kube.kinds import KINDS
from orchestrator.kube.objects import Manifest
from orchestrator.kube.streams import first_words, lines, log_lines

_PAGE = 500
_QUIET_S = 100.0
"""A watch brings a bookmark about once a minute; one that is silent for longer hangs on a dead connection."""


class Cluster(Connection):
    """One namespace of one cluster; kinds that have no namespace are those of the whole cluster.

    Every method may raise ClusterUnreachable and Forbidden; others are named.
    """

    def version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        answer = self._json("GET", "/version", "get the version of the cluster")
        minor = "".join(character for character in str(answer.get("minor", "0")) if character.isdigit())
        return int(answer.get("major", "0")), int(minor or "0")

    def user(self) -> str:
        """The name by which the API server knows the user (SelfSubjectReview)."""
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self._json("POST", path, "ask who the user is", body=review)
        return str(answer.get("status", {}).get("userInfo", {}).get("username", ""))

    def api_groups(self) -> dict[str, list[str]]:
        """The API groups that are served, add-ons' too, each with its versions, the preferred one first."""
        answer = self._json("GET", "/apis", "list the APIs of the cluster")
        found = {}
        for group in answer["groups"]:
            preferred = group["preferredVersion"]["version"]
            others = [item["version"] for item in group["versions"] if item["version"] != preferred]
            found[group["name"]] = [preferred, *others]
        return found

    def schema(self, group: str, version: str) -> Manifest:
        """The OpenAPI document of an API, which every user may read. Raises NotFound."""
        return self._json("GET", f"/openapi/v3/apis/{group}/{version}", f"read the schema of {group}/{version}")

    def elsewhere(self, namespace: str) -> "Cluster":
        """The same cluster, another namespace."""
        other = copy.copy(self)
        other.namespace = namespace
        return other

    def create(self, item: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create an object by POST, never onto an existing one. Unknown fields are refused by the server.

        Raises:
            AlreadyExists, Rejected, NotFound (the namespace).
        """
        query = {"fieldValidation": "Strict", "fieldManager": "orch"} | ({"dryRun": "All"} if dry_run else {})
        what = f"create {_called(item)}"
        return self._json("POST", self._path(item["kind"]), what, query=query, body=item)

    def get(self, kind: str, name: str) -> Manifest:
        """One object. Raises NotFound."""
        return self._json("GET", self._path(kind, name), f"get {kind} {name}")

    def find(self, kind: str, name: str) -> Manifest | None:
        """One object, or None where there is none of that name."""
        with contextlib.suppress(NotFound):
            return self.get(kind, name)
        return None

    def select(self, kind: str, *, labels: str = "", fields: str = "", all_namespaces: bool = False) -> list[Manifest]:
        """All objects that match, page by page, of this namespace or of all; trimmed (see cache.trim)."""
        return self.listed(kind, labels=labels, fields=fields, all_namespaces=all_namespaces)[0]

    def listed(
        self, kind: str, *, labels: str = "", fields: str = "", all_namespaces: bool = False
    ) -> tuple[list[Manifest], str]:
        """The same, and the resource version of the list: where a watch goes on.

        Raises:
            NotFound: the cluster has no such kind.
        """
        for _ in range(BUSY_TRIES):
            with contextlib.suppress(Gone):  # between two pages, which belong to one moment
                return self._pages(kind, _selectors(labels, fields), all_namespaces=all_namespaces)
        raise ServerTrouble(f"cannot list {KINDS[kind].resource}: too much changes between two pages")

    def changes(
        self, kind: str, version: str, *, labels: str = "", fields: str = "", timeout_s: int = 300
    ) -> Iterator[Change]:
        """What changes after a resource version, bookmarks included. The call returns when the server has begun to answer;
        the iterator ends after `timeout_s`, or when the connection breaks.

        To go on, ask again from the version of the last change; watch.py does.

        Raises:
            Gone: the version is too old by now; the iterator may raise it too.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(timeout_s),
            "allowWatchBookmarks": "true",
        }
        query |= _selectors(labels, fields)
        what = f"watch {KINDS[kind].resource}"
        return self._changes_of(self._send("GET", self._path(kind), what, query=query, read_s=_QUIET_S), what)

    def _changes_of(self, response: Any, what: str) -> Iterator[Change]:
        with contextlib.closing(response):
            for line in lines(response):
                try:
                    event = json.loads(line)
                except ValueError:
                    return  # the end of a connection that broke in the middle of a line
                item = event["object"]
                if event["type"] == "ERROR":
                    raise self._refusal(int(item.get("code") or 500), json.dumps(item).encode(), what)
                yield Change(event["type"], trim(item))

    def patch(self, kind: str, name: str, patch: Manifest, *, subresource: str = "") -> Manifest:
        """A merge patch (RFC 7386). Raises NotFound, Rejected."""
        path = self._path(kind, name) + (f"/{subresource}" if subresource else "")
        return self._json(
            "PATCH",
            path,
            f"patch {kind} {name}",
            query={"fieldManager": "orch"},
            body=patch,
            content="application/merge-patch+json",
        )

    def delete(self, kind: str, name: str, *, uid: str | None = None, grace_s: int | None = None) -> bool:
        """Delete an object, and what it owns in the background. False when it was gone already.

        With a UID nothing happens to another object that has taken the name meanwhile.
        """
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self._json("DELETE", self._path(kind, name), f"delete {kind} {name}", body=options)
        except NotFound:
            return False
        except AlreadyExists:  # 409: the UID is another one
            return False
        return True

    def logs(
        self,
        pod: str,
        *,
        container: str,
        follow: bool = False,
        previous: bool = False,
        since: str = "",
        tail: int | None = None,
        quiet_s: float | None = None,
    ) -> Iterator[str]:
        """Lines of a container's log, each beginning with its RFC 3339 time stamp and a blank.

        With `since`, such a time, those of earlier seconds are left out. `previous`: of the container's life before this one.
        With `follow`, as they come; a last line without an end is left out, since a connection may end in the middle of one.
        `quiet_s`: a follower that hears nothing for so long takes its connection for dead.

        Raises:
            NotFound: the pod is gone. Rejected: the container has not started, or has no previous life.
            ClusterUnreachable: also when the connection breaks; with `follow` that is an end like any other.
        """
        query = {"container": container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        if previous:
            query["previous"] = "true"
        if since:
            query["sinceTime"] = since
        if tail is not None:
            query["tailLines"] = str(tail)
        what = f"read the log of pod {pod}"
        read_s = quiet_s if follow else READ_S
        response = self._send("GET", self._path("Pod", pod) + "/log", what, query=query, read_s=read_s)
        with contextlib.closing(response):
            yield from log_lines(response, what, follow=follow)

    def exec(self, pod: str, command: list[str], *, container: str, timeout_s: float = 20.0) -> str:
        """What a command in a container prints on stdout.

        Raises:
            ClusterError: it could not be run, took longer, or ended with another code than 0.
        """
        from kubernetes import client
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import stream
        from websocket import WebSocketException

        api = client.CoreV1Api(client.ApiClient(self._configuration))
        try:
            session = stream(
                api.connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=container,
                command=command,
                stdin=False,
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
                _request_timeout=timeout_s,
            )
        except (ApiException, WebSocketException, OSError) as error:
            raise ClusterError(f"cannot run a command in pod {pod}: {first_words(error)}") from None
        try:
            session.run_forever(timeout=timeout_s)
            if session.is_open():
                raise ClusterError(f"a command in pod {pod} took longer than {timeout_s:.0f} s")
            out, errors = str(session.read_stdout(timeout=0) or ""), str(session.read_stderr(timeout=0) or "")
            if session.returncode:
                last = errors.strip().splitlines()[-1:] or [f"exit code {session.returncode}"]
                raise ClusterError(f"a command in pod {pod} failed: {last[0]}")
            return out
        except (WebSocketException, OSError) as error:
            raise ClusterError(f"the connection to pod {pod} broke: {first_words(error)}") from None
        finally:
            session.close()

    def open_exec(self, pod: str, command: list[str], *, container: str, terminal: bool) -> Any:
        """A WebSocket to a command that starts in a container, with its stdin; jobs/exec.py speaks over it.

        Raises:
            NotFound: the pod is gone. ClusterError: it cannot be reached.
        """
        from kubernetes.stream import ws_client
        from websocket import WebSocketBadStatusException, WebSocketException

        query = [("container", container), ("stdin", "true"), ("stdout", "true"), ("command", command)]
        # A terminal has one stream of output.
        query += [("tty", "true")] if terminal else [("stderr", "true")]
        sockets: Any = ws_client  # its functions carry no types
        url = sockets.get_websocket_url(f"{self._configuration.host}{self._path('Pod', pod)}/exec", query)
        headers = {key.lower(): value for key, value in self._credentials().items()}
        what = f"run a command in pod {pod}"
        try:
            return sockets.create_websocket(self._configuration, url, headers)
        except WebSocketBadStatusException as error:
            raise self._refusal(error.status_code, error.resp_body or b"", what) from None
        except (WebSocketException, OSError) as error:
            raise ClusterUnreachable(f"cannot {what}: {first_words(error)}") from None

    def can_i(self, verb: str, kind: str, *, subresource: str = "") -> bool:
        """Whether the user may do this in the namespace, or in the cluster where the kind has none
        (SelfSubjectAccessReview)."""
        where = KINDS[kind]
        attributes = {"verb": verb, "group": where.group, "resource": where.plural}
        if where.namespaced:
            attributes["namespace"] = self.namespace
        if kind == "Namespace":  # a Role reaches the namespace that it is in
            attributes |= {"namespace": self.namespace, "name": self.namespace}
        if subresource:
            attributes["subresource"] = subresource
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._json("POST", path, "ask for the user's permissions", body=review)
        return bool(answer.get("status", {}).get("allowed"))

    def pending_workloads(self, queue: str) -> list[Manifest]:
        """Who waits in a LocalQueue, in order, as Kueue's visibility API tells it. Raises NotFound where that is not served."""
        path = f"{self._path('LocalQueueView', queue)}/pendingworkloads"
        answer = self._json("GET", path, f"read who waits in queue {queue}")
        return list(answer.get("items") or [])

    # --- paths and pages

    def _path(self, kind: str, name: str = "", *, all_namespaces: bool = False) -> str:
        where = KINDS[kind]
        version = where.version or self._preferred_version(where.group)
        root = f"/apis/{where.group}/{version}" if where.group else f"/api/{version}"
        scope = f"/namespaces/{quote(self.namespace)}" if where.namespaced and not all_namespaces else ""
        path = f"{root}{scope}/{where.plural}"
        return f"{path}/{quote(name)}" if name else path

    def _preferred_version(self, group: str) -> str:
        answer = self._json("GET", f"/apis/{group}", f"find the API {group}")
        return str(answer["preferredVersion"]["version"])

    def _pages(self, kind: str, selectors: dict[str, str], *, all_namespaces: bool) -> tuple[list[Manifest], str]:
        query = {"limit": str(_PAGE)} | selectors
        path = self._path(kind, all_namespaces=all_namespaces)
        items: list[Manifest] = []
        while True:
            page = self._json("GET", path, f"list {KINDS[kind].resource}", query=query)
            # Items of a list carry no kind of their own.
            items += [trim({"apiVersion": page["apiVersion"], "kind": kind} | item) for item in page["items"]]
            more = page["metadata"].get("continue")
            if not more:
                return items, str(page["metadata"]["resourceVersion"])
            query["continue"] = more


def _called(item: Manifest) -> str:
    return f"{item['kind']} {item['metadata'].get('name', '')}".rstrip()


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
