"""Faults of the cluster as a whole: a node without power, a silent kubelet, a partition, the control plane or the bucket away.

The program that ORCH_TEST_FAULTS names causes them, since nothing in Kubernetes can. Whatever a test does with `Faults`, the
cluster is whole again after it.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

PROGRAM_S = 120
WHOLE_S = 120
REGISTER_S = 20
ANY_POD = {"metadata": {"generateName": "any-"}, "spec": {"containers": [{"name": "any", "image": "any"}]}}


def why_no_faults() -> str:
    """Why no fault can be caused here; empty when it can."""
    return (
        "" if os.environ.get("ORCH_TEST_FAULTS") else "no faults: ORCH_TEST_FAULTS is not set (CONTRIBUTING.md, Faults)"
    )


class Faults:
    """Causes faults and remembers what is to be undone, by the method that ends the fault or at the end of the test."""

    def __init__(self, api: client.CoreV1Api) -> None:
        self._api = api
        self._undo: dict[str, Callable[[], None]] = {}
        self.nodes: list[str] = sorted(node.metadata.name for node in api.list_node().items if takes_pods(node))
        """Names of the nodes that take pods."""

    @property
    def victim(self) -> str:
        """The node to disturb. What a cluster runs for itself is expected on the others."""
        return self.nodes[-1]

    # --- what the program does

    def stop(self, what: str) -> None:
        """Take away a `node2` (its power), a `kubelet/node2` (its containers run on), `apiserver`, `gcs`, and the like."""
        self._undo[f"stop {what}"] = lambda: self._start(what)
        self._run("stop", what)

    def start(self, what: str) -> None:
        """Bring back what `stop` took, and wait until the cluster is whole."""
        self._end(f"stop {what}")

    def cut(self, node: str) -> None:
        """Drop all traffic between the pods of this node and those of the others."""
        self._undo[f"cut {node}"] = lambda: self._run("heal", node)
        self._run("cut", node)

    def heal(self, node: str) -> None:
        """Undo `cut`."""
        self._end(f"cut {node}")

    @contextlib.contextmanager
    def stopped(self, what: str) -> Iterator[None]:
        """`what` is away while the block runs, unless `start` brings it back earlier."""
        self.stop(what)
        try:
            yield
        finally:
            self.start(what)

    @contextlib.contextmanager
    def cut_off(self, node: str) -> Iterator[None]:
        """The node is cut off while the block runs, unless `heal` ends it earlier."""
        self.cut(node)
        try:
            yield
        finally:
            self.heal(node)

    # --- what the API does

    @contextlib.contextmanager
    def cordoned(self, *nodes: str) -> Iterator[None]:
        """These nodes take no new pods while the block runs, unless `uncordon` ends it earlier."""
        for node in nodes:
            self.cordon(node)
        try:
            yield
        finally:
            for node in nodes:
                self.uncordon(node)

    def cordon(self, node: str) -> None:
        """Let the node take no new pods."""
        self._undo[f"cordon {node}"] = lambda: self._unschedulable(node, False)
        self._unschedulable(node, True)

    def uncordon(self, node: str) -> None:
        """Undo `cordon`."""
        self._end(f"cordon {node}")

    def delete_node(self, node: str) -> None:
        """Delete the Node object: nobody waits for that machine any more. `register_node` brings it back."""
        found = self._api.read_node(node)
        kept = {"labels": found.metadata.labels, "annotations": found.metadata.annotations}
        self._undo[f"delete {node}"] = lambda: self._register(node, kept)
        self._api.delete_node(node)

    def register_node(self, node: str) -> None:
        """The node is there again, with the labels that it had."""
        self._end(f"stop {node}")
        self._end(f"delete {node}")

    # --- its end

    def restore(self) -> None:
        """End all faults that are left, the newest first, and wait until the cluster is whole."""
        errors = []
        for fault in reversed(list(self._undo)):
            try:
                self._end(fault)
            except Exception as error:  # the others must end all the same
                errors.append(f"{fault}: {error}")
        assert not errors, "the cluster is not whole: " + "; ".join(errors)

    def _end(self, fault: str) -> None:
        undo = self._undo.pop(fault, None)
        if undo is not None:
            undo()
            self._wait_until_whole()

    def _run(self, verb: str, what: str) -> None:
        program = os.environ["ORCH_TEST_FAULTS"]
        done = subprocess.run([program, verb, what], capture_output=True, text=True, timeout=PROGRAM_S)
        assert done.returncode == 0, f"{program} {verb} {what}: {done.returncode}\n{done.stdout}{done.stderr}"

    def _start(self, what: str) -> None:
        self._run("start", what)

    def _unschedulable(self, node: str, value: bool) -> None:
        self._api.patch_node(node, {"spec": {"unschedulable": value}})

    def _register(self, node: str, kept: dict[str, Any]) -> None:
        """A kubelet makes its Node object when it starts, and never again."""
        if not self._soon(lambda: self._exists(node), REGISTER_S):
            self._run("stop", f"kubelet/{node}")
            self._run("start", f"kubelet/{node}")
            assert self._soon(lambda: self._exists(node), WHOLE_S), f"the kubelet of {node} did not register it again"
        self._api.patch_node(node, {"metadata": kept})

    def _exists(self, node: str) -> bool:
        try:
            self._api.read_node(node)
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def _wait_until_whole(self) -> None:
        """Until the nodes take pods again that no fault, which still lasts, keeps from it, and no webhook refuses one."""
        lame = {fault.rpartition(" ")[2].removeprefix("kubelet/") for fault in self._undo}
        if lame & {"apiserver", "etcd"}:
            return
        wanted = set(self.nodes) - lame

        def whole() -> bool:
            try:
                found = self._api.list_node(_request_timeout=5).items
                self._api.create_namespaced_pod("default", ANY_POD, dry_run="All", _request_timeout=15)
            except (ApiException, HTTPError, OSError):
                return False
            return wanted <= {node.metadata.name for node in found if takes_pods(node)}

        assert self._soon(whole, WHOLE_S), f"waited {WHOLE_S} s for the nodes {', '.join(sorted(wanted))}"

    @staticmethod
    def _soon(condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


def takes_pods(node: Any) -> bool:
    ready = any(item.type == "Ready" and item.status == "True" for item in node.status.conditions or [])
    taints = [taint for taint in node.spec.taints or [] if taint.effect in ("NoSchedule", "NoExecute")]
    return ready and not taints and not node.spec.unschedulable
