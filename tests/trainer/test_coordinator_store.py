"""The coordinator while the store is away: it waits and says since when, and no limit of the job runs."""

from datetime import UTC, datetime

from trainer.coordinator.job import Append, Job, ListCommits
from trainer.coordinator.machine import END_S, Coordinator
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, Launch
from trainer.wire.coordinator import AgentReport, ExitReport

LAUNCH = Launch(id="launch", started=datetime(2026, 1, 1, tzinfo=UTC))


def job(workers: int = 1) -> Job:
    return Job("job", workers, "uid-0", LAUNCH, start_timeout_s=100, steps_asked=10)


def report(last_exit: ExitReport | None = None) -> AgentReport:
    return AgentReport(
        launch="launch",
        index=0,
        uid="uid-0",
        address="a",
        port=1,
        state="idle",
        attempt=1 if last_exit else 0,
        last_exit=last_exit,
    )


def test_an_outage_is_not_part_of_start_timeout() -> None:
    coordinator = Coordinator(job(workers=2), [], 0.0)
    coordinator.poll(report(), 1.0)
    assert coordinator.next_action(20.0) is not None
    coordinator.store_failed("503", 20.0)
    for now in range(30, 500, 5):
        directive = coordinator.poll(report(), float(now))
        assert directive.kind == "wait"
        assert directive.reason.startswith("waiting for the store since ")
        assert directive.reason.endswith("UTC: 503")
        if coordinator.next_action(float(now)) is not None:
            coordinator.store_failed("503", float(now))
    coordinator.probed(None, 500.0)
    assert "store" not in coordinator.poll(report(), 501.0).reason
    coordinator.tick(500.0 + 75)
    assert coordinator.end is None
    assert coordinator.next_action(500.0 + 75) is not None
    coordinator.probed(None, 500.0 + 75)
    coordinator.poll(report(), 500.0 + 85)
    action = coordinator.next_action(500.0 + 85)
    assert isinstance(action, Append)
    assert isinstance(action.record, EndRecord)
    assert "these workers are still missing: 1" in action.record.reason


def failed(coordinator: Coordinator) -> None:
    """Up to the wish to write the end of a job whose last save was refused."""
    coordinator.poll(report(), 1.0)
    assert isinstance(coordinator.next_action(1.0), ListCommits)
    coordinator.commits_listed([], 1.0)
    action = coordinator.next_action(1.0)
    assert isinstance(action, Append)
    coordinator.appended(action.record, 1.0)
    assert coordinator.poll(report(), 2.0).kind == "run"
    exit_report = ExitReport(attempt=1, code=ExitCode.SAVE_REFUSED, exception="SaveRefused", message="disk full")
    coordinator.poll(report(exit_report), 3.0)


def test_a_failed_job_ends_although_the_store_does_not_take_its_end() -> None:
    coordinator = Coordinator(job(), [], 0.0)
    failed(coordinator)
    now = 4.0
    while now < 4.0 + 3 * END_S and coordinator.leave is None:
        if isinstance(coordinator.next_action(now), Append):
            coordinator.store_failed("no space left", now)
        now += 1.0
    assert now > END_S
    directive = coordinator.poll(report(), now)
    assert (directive.kind, directive.code) == ("leave", ExitCode.SAVE_REFUSED)
    assert "disk full" in directive.reason
    assert "no space left" in directive.reason


def test_a_failed_job_ends_with_its_record_when_the_store_comes_back() -> None:
    coordinator = Coordinator(job(), [], 0.0)
    failed(coordinator)
    first = coordinator.next_action(4.0)
    assert isinstance(first, Append)
    coordinator.store_failed("503", 4.0)
    again = coordinator.next_action(10.0)
    assert again == first
    coordinator.appended(first.record, 10.0)
    assert coordinator.end is not None
    assert coordinator.end.code == ExitCode.SAVE_REFUSED
    assert isinstance(coordinator.attempt, AttemptRecord)
