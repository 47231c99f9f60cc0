"""The coordinator's answers in single situations. All of them together, at random, are in test_protocol_model.py."""

from datetime import UTC, datetime

from trainer.agent.link import from_records
from trainer.coordinator.job import Append, Job, ListCommits, Probe
from trainer.coordinator.machine import Coordinator, Stage
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch
from trainer.wire.coordinator import AgentReport, ExitReport
from trainer.wire.process import Result

LAUNCH = Launch(id="launch", started=datetime(2026, 1, 1, tzinfo=UTC))


def coordinator(
    uid: str = "zero", records: tuple[AttemptRecord | EndRecord, ...] = (), launch: Launch = LAUNCH
) -> Coordinator:
    return Coordinator(Job("job", 2, uid, launch, restarts_max=5, steps_asked=10), records, 0.0)


def report(index: int, uid: str, attempt: int = 0, **facts: object) -> AgentReport:
    return AgentReport.model_validate(
        {
            "launch": LAUNCH.id,
            "index": index,
            "uid": uid,
            "address": "10.0.0.1",
            "port": 20000,
            "state": "idle",
            "attempt": attempt,
            **facts,
        }
    )


def write_next(one: Coordinator, now: float, *commits: CommitRef, uid: str = "zero") -> AttemptRecord | EndRecord:
    """Both workers are idle, and what the coordinator then wishes for is done."""
    for index, who in enumerate((uid, "one")):
        one.poll(report(index, who, one.attempt.number if one.attempt else 0), now)
    assert isinstance(one.next_action(now), ListCommits)
    one.commits_listed(commits, now)
    action = one.next_action(now)
    assert isinstance(action, Append)
    one.appended(action.record, now)
    return action.record


def nobody_speaks(one: Coordinator, since: int, until: int) -> None:
    """So long, by a clock that goes on: a coordinator to which it jumps takes itself for the one that stood still."""
    for now in range(since, until + 1):
        one.tick(float(now))


def exited(attempt: int, code: int, **facts: object) -> dict[str, object]:
    return {"attempt": attempt, "last_exit": ExitReport(attempt=attempt, code=code, step=10, blocks=True), **facts}


def test_who_runs_a_later_attempt_is_not_told_to_end_it() -> None:
    old = coordinator()
    write_next(old, 1.0)
    assert old.poll(report(1, "one", 1, state="running"), 2.0).kind == "wait"
    assert old.poll(report(1, "one", 2, state="running"), 3.0).kind == "wait"
    assert old.next_action(3.0) == Probe(2)


def test_a_superseded_worker_0_leaves_alone() -> None:
    old, new = coordinator(), coordinator("other zero")
    first = write_next(old, 1.0)
    new.records.append(first)
    second = write_next(new, 1.0, uid="other zero")
    old.look(2.0)
    assert isinstance(old.next_action(2.0), Probe)
    old.probed(second, 2.0)
    left = old.poll(report(0, "zero", 1), 2.0)
    assert (left.kind, left.code) == ("leave", ExitCode.STOPPED)
    assert old.poll(report(1, "one", 1), 2.0).kind == "wait"


def test_the_last_record_of_a_replaced_worker_0_is_gone_on_behind() -> None:
    old = coordinator()
    first = write_next(old, 1.0)
    nobody_speaks(old, 1, 20)
    second = write_next(old, 21.0, CommitRef(step=3, attempt=1))
    new = coordinator("new zero", (first,))
    for index, uid in enumerate(("new zero", "one")):
        new.poll(report(index, uid), 21.0)
    assert new.next_action(21.0) == ListCommits(1)
    new.commits_listed([CommitRef(step=3, attempt=1)], 21.0)
    assert isinstance(new.next_action(21.0), Append)
    new.appended(second, 21.0)
    assert new.leave is None
    third = write_next(new, 22.0, CommitRef(step=3, attempt=1), uid="new zero")
    assert third.number == 3


def test_a_new_launch_goes_on_behind_the_last_record_of_the_one_before() -> None:
    later = Launch(id="later", started=datetime(2026, 1, 2, tzinfo=UTC))
    old = coordinator()
    first = write_next(old, 1.0)
    nobody_speaks(old, 1, 20)
    new = coordinator("new zero", (first,), later)
    new.look(21.0)
    assert new.next_action(21.0) == Probe(2)
    new.probed(write_next(old, 21.0), 21.0)
    assert (new.leave, new.stage) == (None, Stage.GATHER)
    new.look(22.0)
    assert new.next_action(22.0) == Probe(3)


def test_an_end_stands_whoever_went_on_behind_it() -> None:
    one = coordinator()
    first = write_next(one, 1.0)
    result = Result(step=10, total_steps=10, metrics={}, weights_sha256="x", export=None)
    one.poll(report(0, "zero", **exited(1, 0, result=result)), 2.0)
    action = one.next_action(2.0)
    assert isinstance(action, Append)
    later = first.model_copy(update={"number": 3, "launch": Launch(id="later", started=LAUNCH.started)})
    replaced = coordinator("new zero", (first, action.record, later))
    directive = replaced.poll(report(1, "one", 1), 3.0)
    assert (directive.kind, directive.end) == ("exit", action.record)


def test_the_records_alone_tell_an_agent_that_its_job_is_over_or_taken_over() -> None:
    first = write_next(coordinator(), 1.0)
    later = first.model_copy(update={"number": 3, "launch": Launch(id="later", started=LAUNCH.started)})
    end = EndRecord(
        number=2, nonce="n", launch=LAUNCH, created=LAUNCH.started, state="failed", code=70, reason="raised", step=1
    )
    assert from_records([first], LAUNCH.id) is None
    told = from_records([first, end, later], LAUNCH.id)
    assert told is not None
    assert (told.kind, told.end) == ("exit", end)
    told = from_records([first, later], LAUNCH.id)
    assert told is not None
    assert (told.kind, told.code) == ("leave", ExitCode.CONFIGURATION)
    assert from_records([later], LAUNCH.id) is None, "its own first record may be still to come"


def test_a_result_that_is_heard_after_another_worker_fell_silent_ends_the_job_well() -> None:
    one = coordinator()
    write_next(one, 1.0)
    nobody_speaks(one, 2, 10)
    one.poll(report(0, "zero", 1, state="running"), 10.0)
    nobody_speaks(one, 11, 12)
    assert one.poll(report(0, "zero", 1, state="running"), 12.0).kind == "end"
    result = Result(step=10, total_steps=10, metrics={}, weights_sha256="x", export=None)
    one.poll(report(0, "zero", **exited(1, 0, result=result)), 13.0)
    action = one.next_action(13.0)
    assert isinstance(action, Append)
    assert isinstance(action.record, EndRecord)
    assert action.record.state == "succeeded"


def test_who_is_silent_while_the_others_wait_is_named() -> None:
    one = coordinator()
    write_next(one, 1.0)
    one.poll(report(1, "one", 1, state="running"), 2.0)
    one.poll(report(0, "zero", **exited(1, 137)), 3.0)
    assert "waiting" not in one.reason()
    for now in range(3, 15):
        one.tick(float(now))
        one.poll(report(0, "zero", **exited(1, 137)), float(now))
    assert one.reason().startswith("waiting for worker 1, silent for over 10 s; worker ")


def test_a_command_job_whose_scripts_are_all_done_is_done_however_late_that_is_heard() -> None:
    one = coordinator()
    write_next(one, 1.0)
    nobody_speaks(one, 2, 10)
    one.poll(report(0, "zero", **exited(1, 0)), 10.0)
    nobody_speaks(one, 11, 12)
    assert one.stage is Stage.GATHER
    one.poll(report(1, "one", **exited(1, 0)), 13.0)
    action = one.next_action(13.0)
    assert isinstance(action, Append)
    assert isinstance(action.record, EndRecord)
    assert action.record.state == "succeeded"


def test_a_coordinator_that_stood_still_itself_calls_nobody_silent() -> None:
    one = coordinator()
    write_next(one, 1.0)
    for index, uid in enumerate(("zero", "one")):
        one.poll(report(index, uid, 1, state="running"), 2.0)
    one.tick(2.5)
    one.tick(60.0)
    assert one.stage is Stage.RUN
    one.tick(62.0)
    for now in range(63, 72):
        one.tick(float(now))
        one.poll(report(0, "zero", 1, state="running"), float(now))
    assert one.stage is Stage.GATHER, "but who does not speak afterwards either"
