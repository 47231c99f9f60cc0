"""`orch logs` of a job whose pods are not all there any more. The bucket is real, the cluster is not."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support_gcs import Proxy, always

from orchestrator.cli import logs as command
from orchestrator.cli.main import run
from trainer.rundir.attempts import AttemptRecord, Launch, Member, append_record
from trainer.rundir.open import open_store

CHIEF, OLD, NEW, LATER, STRANGER = "aaaaaaaa-0", "bbbbbbbb-1", "cccccccc-1", "dddddddd-2", "eeeeeeee-1"
EARLIER = """
worker=0 INFO attempt 1 starts restore=nothing port=1
chief, first attempt
"""
SINCE_THEN = """
worker=0 WARNING training process ended attempt=1 code=75 (lost a peer or a service) step=9
worker=0 INFO attempt 2 starts restore=nothing port=1
chief, second attempt
"""


class OneJob:
    """A cluster that holds one Job, of whose pods that of worker 1 was replaced."""

    def __init__(self, directory: str) -> None:
        now = time.time()
        self.directory = directory
        # What lies in the bucket was written between the two.
        self.printed = {
            CHIEF: [*self._stamped(EARLIER, now - 60), *self._stamped(SINCE_THEN, now + 60)],
            NEW: self._stamped("worker=1 INFO attempt 2 starts restore=nothing port=1\nsecond attempt\n", now + 70),
        }

    def _stamped(self, text: str, time_s: float) -> list[str]:
        stamp = datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [f"{stamp} {line}" for line in text.strip().splitlines()]

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        metadata = {
            "name": "digits",
            "uid": "launch",
            "labels": {"app.kubernetes.io/managed-by": "orch"},
            "annotations": {"orch/run-directory": self.directory},
        }
        job = {"kind": "Job", "metadata": metadata, "spec": {"parallelism": 3}, "status": {"active": 2}}
        return job if kind == "Job" else None

    def select(self, kind: str, **by: str) -> list[dict[str, Any]]:
        return [self._pod(uid) for uid in self.printed] if kind == "Pod" else []

    def _pod(self, uid: str) -> dict[str, Any]:
        labels = {"batch.kubernetes.io/job-completion-index": uid[-1]}
        return {
            "metadata": {"name": uid, "uid": uid, "labels": labels, "annotations": labels},
            "spec": {"nodeName": "node"},
            "status": {"containerStatuses": [{"name": "trainer", "state": {"running": {}}}]},
        }

    def logs(self, pod: str, **how: Any) -> Iterator[str]:
        yield from self.printed[pod]


@pytest.fixture
def directory(gcs_url: str) -> str:
    """Two attempts of the launch; worker 1 was replaced in between, and worker 2 has no pod any more."""
    store = open_store(gcs_url)
    members = {1: (CHIEF, OLD, LATER), 2: (CHIEF, NEW, LATER)}
    started = datetime(2026, 1, 1, tzinfo=UTC)
    for number, launch, uids in ((1, "launch", members[1]), (2, "launch", members[2]), (3, "other", (STRANGER,) * 2)):
        append_record(
            store,
            AttemptRecord(
                number=number, nonce="n", launch=Launch(id=launch, started=started), created=started, restore=None,
                members=[Member(index=int(uid[-1]), uid=uid, address="", port=1) for uid in uids], world_size=3,
            ),
        )  # fmt: skip
    for name, text in {
        "worker-0/attempt-1/segment-000001": b"chief, first attempt\n",
        "worker-1/agent-bbbbbbbb/segment-000001": b"worker=1 INFO agent started\n",
        "worker-1/attempt-1/segment-000001": b"first attempt, beg",
        "worker-1/attempt-1/segment-000002": b"un\nfirst attempt, failed",
        "worker-1/attempt-2/segment-000001": b"second attempt\n",
        "worker-1/agent-eeeeeeee/segment-000001": b"of another launch\n",
        "worker-1/attempt-3/segment-000001": b"of another launch\n",
    }.items():
        store.put(f"logs/{name}.log", text)
    return gcs_url


@pytest.fixture
def shown(directory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(command, "connect", lambda *_: OneJob(directory))

    def show(*options: str) -> tuple[list[str], str]:
        assert run(["logs", "digits", "-n", "research", *options]) == 0
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err

    return show


def test_lines_of_pods_that_are_gone_stand_in_their_place_and_none_comes_twice(shown: Any) -> None:
    lines, said = shown()
    assert lines[:2] == ["[0] worker=0 INFO attempt 1 starts restore=nothing port=1", "[0] chief, first attempt"]
    assert sorted(lines[2:5]) == [
        "[1] first attempt, begun", "[1] first attempt, failed", "[1] worker=1 INFO agent started"
    ]  # fmt: skip
    assert lines[5].startswith("[0] worker=0 WARNING training process ended attempt=1")
    assert lines[7:] == [
        "[0] chief, second attempt",
        "[1] worker=1 INFO attempt 2 starts restore=nothing port=1",
        "[1] second attempt",
    ]
    assert "of pods that are gone, the run directory holds no lines of worker 2 in attempts 1, 2: " in said


def test_an_attempt_is_shown_of_all_workers_also_of_those_whose_pods_are_gone(shown: Any) -> None:
    lines, said = shown("--attempt", "1", "--worker", "0,1")
    assert "[0] chief, first attempt" in lines
    assert lines[2:4] == ["[1] first attempt, begun", "[1] first attempt, failed"]
    assert "pods that are gone" not in said


def test_what_cannot_be_read_of_pods_that_are_gone_is_said(
    shown: Any, gcs_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(gcs_server.url, always(403))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    try:
        lines, said = shown()
    finally:
        proxy.close()
    assert len(lines) == 7
    assert "what pods that are gone have printed, if there are any, cannot be read: cannot list " in said
