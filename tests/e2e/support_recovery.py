"""A job on two nodes that is disturbed once, and how long it took to come back: lost -> next step.

The times are told, never asserted: `add_row` keeps them with the test, conftest.py prints all of them at the end.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from support_cluster import Manifest, Room
from support_cluster_faults import Faults
from support_training import CHECKPOINT, PACED, PACED_TRAIN, STEPS

from trainer.rundir.attempts import AttemptRecord, CommitRef, read_records
from trainer.rundir.commits import list_commits
from trainer.rundir.lineage import line
from trainer.rundir.metrics import read_signs
from trainer.rundir.open import open_store
from trainer.rundir.store import Store

ROW = "recovery"
"""The name under which a test keeps its row of the table."""
NOTE = "note"
"""The same of a line that is printed as it is."""


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds since the loss, None where there is none."""

    what: str
    worker: int
    told_s: float | None
    mended: str
    mended_s: float | None
    next_step_s: float | None
    load: float
    """Processes that wanted a core of this machine in the last minute."""


class DisturbedJob:
    """A slow job of two workers; `worker` runs on the node that faults disturb, the other on another node."""

    def __init__(self, room: Room, faults: Faults, name: str, worker: int) -> None:
        self.room, self.faults, self.name, self.worker = room, faults, name, worker
        code = room.mount_code("paced.py", PACED)
        job = room.job_file(
            name,
            train=PACED_TRAIN,
            checkpoint=CHECKPOINT,
            resources={"workers": 2, "cpu": 0.9, "memory": "1500Mi"},
            kubernetes={"pod": {"spec": _apart(name, faults, worker)}},
            **code,
        )
        room.orch("submit", str(job))
        # Some steps were done, and some of them saved: what is lost can be told from what must not be.
        status = room.wait_for_status(name, lambda status: status["state"] == "running" and status["step"] > 0)
        self.directory: str = status["run_directory"]
        self.store: Store = open_store(self.directory)
        room.wait_for("a checkpoint", lambda: bool(list_commits(self.store)))
        self.before = room.pods(name)
        nodes = {index: pod.spec.node_name for index, pod in self.before.items()}
        assert nodes[worker] == faults.victim != nodes[1 - worker], f"the workers are on {nodes}"
        self._lost_s = time.time()
        self._told_s: float | None = None
        self._mended: tuple[str, float | None] = ("by itself", None)

    def pod(self, worker: int) -> Any:
        """The pod of a worker before the fault."""
        return self.before[worker]

    def lost(self) -> None:
        """The fault happens now."""
        self._lost_s = time.time()

    def mended(self, how: str) -> None:
        """What lets the job go on happens now."""
        self._mended = (how, time.time())

    def wait_until_told(self, *words: str, timeout_s: float = 120) -> Manifest:
        """Until `orch status` gives a reason, of the job, a trouble or a worker, with all these words in it."""

        def told(status: Manifest) -> bool:
            parts = [status, *status["troubles"], *status["workers"]]
            reasons = [entry["reason"] for entry in parts]
            return any(all(word in reason for word in words) for reason in reasons)

        status = self.room.wait_for_status(self.name, told, timeout_s)
        self._told_s = time.time()
        return status

    def wait_until_over(self, *, replaced: set[int], restarts: int, weights: str | None) -> tuple[Manifest, Row]:
        """The status at the end of the job, and its row of the table.

        Fails unless the job succeeded with these weights after so many restarts, and exactly the pods of `replaced` are others.
        """
        status = self.room.wait_for_status(
            self.name, lambda status: status["state"] in ("succeeded", "failed"), timeout_s=300
        )
        assert (status["state"], status["code"], status["step"]) == ("succeeded", 0, STEPS), status
        assert status["weights_sha256"] == weights
        after = self.room.pods(self.name)
        others = {index for index, pod in self.before.items() if after[index].metadata.uid != pod.metadata.uid}
        assert others == replaced
        assert status["restarts"] == restarts, status["history"]
        how, mended_s = self._mended
        return status, Row(
            what=self.name,
            worker=self.worker,
            told_s=self._since_loss(self._told_s),
            mended=how,
            mended_s=self._since_loss(mended_s),
            next_step_s=self._since_loss(self._next_step_s()),
            load=os.getloadavg()[0],
        )

    def _since_loss(self, time_s: float | None) -> float | None:
        return None if time_s is None else time_s - self._lost_s

    def _next_step_s(self) -> float | None:
        """When the first block of steps after the loss was done, in an attempt that began after it."""
        records = [record for record in self.records() if record.created.timestamp() > self._lost_s]
        signs = read_signs(self.store, records)
        return min((sign.time for told in signs.values() for sign in told if sign.type == "block"), default=None)

    # --- its run directory

    def records(self) -> list[AttemptRecord]:
        """The attempts so far."""
        return [record for record in read_records(self.store) if isinstance(record, AttemptRecord)]

    def commits(self) -> list[CommitRef]:
        """All commits that exist."""
        return list_commits(self.store)

    def line(self) -> list[CommitRef]:
        """The commits that count."""
        return line(read_records(self.store), list_commits(self.store))

    def agent_log(self, pod: Any) -> str:
        """What the agent of a pod left in the run directory."""
        index = next(index for index, other in self.before.items() if other is pod)
        prefix = f"logs/worker-{index}/agent-{pod.metadata.uid[:8]}/"
        return b"".join(self.store.get(entry.name) for entry in self.store.list(prefix)).decode(errors="replace")


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| what | worker | status tells it | what lets it go on | loss -> next step | from there | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        then = None if row.mended_s is None or row.next_step_s is None else row.next_step_s - row.mended_s
        after = "" if row.mended_s is None else f", {row.mended_s:.0f} s"
        cells = [row.what, str(row.worker), _seconds(row.told_s), row.mended + after, _seconds(row.next_step_s)]
        lines.append("| " + " | ".join([*cells, _seconds(then), f"{row.load:.1f}"]) + " |")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _apart(name: str, faults: Faults, worker: int) -> Manifest:
    """Worker 0, whose pod is made first, goes to the preferred node; the other to another one, as long as there are two.

    Nodes with taints do not count as nodes: where one is lost, its pod finds a place beside the other.
    """
    others = [node for node in faults.nodes if node != faults.victim]
    order = [faults.victim, others[0]] if worker == 0 else [others[0], faults.victim]
    preferences = [
        {
            "weight": weight,
            "preference": {
                "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}],
            },
        }
        for node, weight in zip(order, (100, 1), strict=True)
    ]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": name}},
    }
    return {
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferences}},
        "topologySpreadConstraints": [spread],
    }


def add_row(record_property: Callable[[str, object], None], row: Row) -> None:
    """Keep the row with the test, for the table at the end."""
    record_property(ROW, row)
