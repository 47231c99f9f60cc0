"""A queue that is too small for all: who waits is told so, who is more urgent goes first, who is cancelled makes room, and nobody
loses what was learnt."""

from pathlib import Path
from typing import Any

import pytest
from support_cluster import Manifest, Room
from support_queues import QUEUE, reserved, small_queue
from support_training import CHECKPOINT, PACED, PACED_TRAIN, STEPS

pytestmark = pytest.mark.e2e

SHORT = {"task": "trainer.tasks.digits:Digits", "steps": 50}


def test_the_second_waits_and_the_urgent_preempts_the_first_which_ends_with_the_same_weights(
    room: Room, undisturbed: dict[str, Any]
) -> None:
    if not room.serves("kueue.x-k8s.io"):
        pytest.skip("Kueue is not installed on this cluster")
    code = room.mount_code("paced.py", PACED)
    with small_queue(room, cpu=2, memory="3000Mi", priorities={"usual": 10, "urgent": 100}) as classes:

        def job(name: str, priority: str, **sections: Any) -> Path:
            scheduling = {"queue": QUEUE, "priority": classes[priority]}
            return room.job_file(name, scheduling=scheduling, **sections)

        submitted = room.orch("submit", str(job("first", "usual", train=PACED_TRAIN, checkpoint=CHECKPOINT, **code)))
        assert f"queue {QUEUE} decides when it starts" in submitted.stderr
        running = room.wait_for_status("first", lambda status: status["state"] == "running" and status["step"] > 0)

        room.orch("submit", str(job("second", "usual", train=SHORT)))
        waiting = room.wait_for_status("second", lambda status: "no room" in status["reason"], timeout_s=30)
        assert waiting["state"] == "waiting"
        assert waiting["reason"].startswith(f"waiting in queue {QUEUE}, next in line: no room for ")
        assert "what to do: nothing: it starts when the queue has room" in room.orch("status", "second").stdout
        assert room.pods("second") == {}

        room.orch("submit", str(job("urgent", "urgent", train=SHORT)))
        preempted = room.wait_for_status("first", lambda status: "preempted" in status["reason"], timeout_s=60)
        assert f"waiting in queue {QUEUE}" in preempted["reason"]
        room.wait_for("the end of the preempted pods", lambda: room.pods("first") == {})
        stopped = room.status("first")
        assert stopped["step"] >= running["step"], "it was saved when it was told to stop"
        assert _waits(room.status("second")), "who came later and is no more urgent waits on"
        room.orch("wait", "urgent", timeout_s=120)

        status = room.wait_for_status("first", lambda status: status["state"] == "succeeded", timeout_s=240)
        assert (status["step"], status["attempts"]) == (STEPS, 2)
        assert status["weights_sha256"] == undisturbed["weights_sha256"]
        room.orch("wait", "second", timeout_s=120)
        for name in ("first", "second", "urgent"):
            room.orch("delete", name)
        assert room.objects() == []


def test_a_cancelled_job_gives_up_its_place_and_goes_on_when_it_has_one_again(
    room: Room, undisturbed: dict[str, Any]
) -> None:
    if not room.serves("kueue.x-k8s.io") or not room.serves("jobset.x-k8s.io"):
        pytest.skip("Kueue or JobSet is not installed on this cluster")
    code = room.mount_code("paced.py", PACED)
    queue = {"queue": QUEUE}
    with small_queue(room, cpu=2, memory="3000Mi", priorities={}):
        first = room.job_file("first", scheduling=queue, train=PACED_TRAIN, checkpoint={"every": "10m"}, **code)
        room.orch("submit", str(first))
        room.wait_for_status("first", lambda status: status["state"] == "running" and status["step"] > 0)
        second = room.job_file("second", scheduling=queue, train=SHORT, kubernetes={"groups": 2})
        room.orch("submit", str(second))
        room.wait_for_status("second", lambda status: "no room" in status["reason"], timeout_s=30)
        assert reserved(room) == 1

        room.orch("cancel", "second")
        cancelled = room.status("second")
        assert (cancelled["state"], cancelled["workers"]) == ("stopped", [])
        assert cancelled["reason"] == f"the job is cancelled: queue {QUEUE} does not run it"
        listed = room.orch("list", "-o", "json").json()
        assert [(row["name"], row["state"]) for row in listed] == [("first", "running"), ("second", "stopped")]
        stopped = room.orch("cancel", "first", "-o", "json").json()
        assert 0 < stopped["step"] < STEPS, "stopped with a checkpoint"
        assert room.pods("first") == {}
        assert room.status("first")["state"] == "stopped"
        room.wait_for("the quota to be free", lambda: reserved(room) == 0, 15)

        assert "puts it back into the queue" in room.orch("status", "second").stdout
        assert room.orch("resume", "second", "-o", "json").json()["queued"]
        room.wait_for("the place of the first", lambda: reserved(room) == 1, 15)
        assert "its queue decides when it starts" in room.orch("resume", "first").stderr
        room.orch("wait", "second", timeout_s=120)
        room.orch("wait", "first", timeout_s=240)
        status = room.status("first")
        assert (status["state"], status["step"], status["attempts"]) == ("succeeded", STEPS, 2)
        assert status["weights_sha256"] == undisturbed["weights_sha256"]
        for name in ("first", "second"):
            room.orch("delete", name)
        assert room.objects() == []


def _waits(status: Manifest) -> bool:
    return bool(status["state"] == "waiting" and not status["workers"])
