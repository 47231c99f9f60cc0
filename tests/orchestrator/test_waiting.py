"""When a job has ended, and when it is stopped."""

from typing import Any

import pytest

from orchestrator.jobs.wait import is_stopped
from orchestrator.kube.objects import is_over


def job(*conditions: tuple[str, str], suspend: bool = False) -> dict[str, Any]:
    return {
        "spec": {"suspend": suspend},
        "status": {"conditions": [{"type": kind, "status": status} for kind, status in conditions]},
    }


@pytest.mark.parametrize("kind", ["Complete", "Completed", "Failed"])
def test_a_job_or_jobset_has_ended_when_its_condition_holds(kind: str) -> None:
    assert is_over(job((kind, "True")))
    assert not is_over(job((kind, "False")))


def test_a_job_that_has_only_reached_its_goal_or_is_suspended_has_not_ended() -> None:
    assert not is_over({"spec": {}})
    assert not is_over(job(("SuccessCriteriaMet", "True"), ("FailureTarget", "True"), ("Suspended", "True")))


def test_a_job_is_stopped_when_the_last_of_its_pods_has_ended() -> None:
    running, over = {"status": {"phase": "Running"}}, {"status": {"phase": "Failed"}}
    assert is_stopped(job(suspend=True), [])
    assert is_stopped(job(suspend=True), [over])
    assert not is_stopped(job(suspend=True), [over, running]), "it still saves"
    assert not is_stopped(job(), [])
