"""What an agent decides, in single situations. All of it together with the coordinator is in test_protocol_model.py."""

from datetime import UTC, datetime

from trainer.agent.decide import DONE_S, HOLD_S, AskToStop, Begin, Decisions, Kill, Leaving, LimitWriter, SayStopping
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, Launch
from trainer.wire.coordinator import Directive, ExitReport

LAUNCH = Launch(id="launch", started=datetime(2026, 1, 1, tzinfo=UTC))
GRACE_S = 30.0


def told(kind: str, **facts: object) -> Directive:
    return Directive.model_validate({"kind": kind, "coordinator": "zero", "attempt": 1, **facts})


def to_run(number: int) -> Directive:
    record = AttemptRecord(
        number=number, nonce="n", launch=LAUNCH, created=LAUNCH.started, members=[], restore=None, world_size=1
    )
    return told("run", record=record)


def the_end(code: int) -> Directive:
    state = "succeeded" if code == 0 else "failed"
    end = EndRecord(
        number=2, nonce="n", launch=LAUNCH, created=LAUNCH.started, state=state, code=code, reason="over", step=1
    )
    return told("exit", end=end)


def running(number: int = 1) -> Decisions:
    decisions = Decisions(GRACE_S)
    (order,) = decisions.obey(to_run(number), 0.0, runs=False)
    assert isinstance(order, Begin)
    decisions.began(number)
    return decisions


def test_an_attempt_begins_once_and_never_beside_another_one() -> None:
    decisions = running()
    assert decisions.obey(to_run(2), 1.0, runs=True) == []
    decisions.ended(ExitReport(attempt=1, code=75), None, None)
    assert decisions.obey(to_run(1), 2.0, runs=False) == []
    assert [type(order) for order in decisions.obey(to_run(2), 2.0, runs=False)] == [Begin]


def test_who_is_to_leave_begins_nothing() -> None:
    decisions = Decisions(GRACE_S)
    assert decisions.obey(told("leave", code=78, reason="taken over", remedy="look"), 0.0, runs=False) == []
    assert decisions.leaving == Leaving(78, "taken over", "look")
    assert decisions.obey(to_run(1), 1.0, runs=False) == []


def test_sigterm_asks_for_a_save_and_kills_when_the_grace_period_is_almost_over() -> None:
    decisions = running()
    decisions.sigterm(10.0)
    assert decisions.due(10.0, runs=True, process_ended=False) == [SayStopping(30.0), AskToStop()]
    assert decisions.obey(told("end"), 11.0, runs=True) == [], "it ends by itself, with its save"
    assert decisions.due(20.0, runs=True, process_ended=False) == [AskToStop()]
    assert decisions.due(20.0, runs=True, process_ended=True) == [AskToStop(), LimitWriter(39.0)]
    assert decisions.due(38.5, runs=True, process_ended=False) == [AskToStop(), Kill(), LimitWriter(39.0)]
    assert decisions.state(runs=False) == "leaving"


def test_a_second_sigterm_gives_no_more_time() -> None:
    decisions = Decisions(GRACE_S)
    decisions.sigterm(10.0)
    decisions.sigterm(20.0)
    assert decisions.terminating_until_s == 40.0


def test_the_end_of_a_success_leaves_the_process_time_to_exit_by_itself() -> None:
    decisions = running()
    decisions.obey(the_end(0), 10.0, runs=True)
    assert decisions.due(10.0 + DONE_S, runs=True, process_ended=False) == []
    assert decisions.due(10.1 + DONE_S, runs=True, process_ended=False) == [Kill()]


def test_the_end_of_a_failure_kills_at_once_and_a_failed_script_is_a_task_error() -> None:
    decisions = running()
    decisions.obey(the_end(ExitCode.SCRIPT_FAILED), 10.0, runs=True)
    assert decisions.due(10.0, runs=True, process_ended=False) == [Kill()]
    assert decisions.leaving == Leaving(ExitCode.TASK_ERROR, "over")
    assert decisions.state(runs=False) == "idle", "with the end known it leaves no attempt"


def test_worker_0_stays_until_the_others_know_or_long_enough() -> None:
    decisions = Decisions(GRACE_S)
    decisions.obey(the_end(0), 10.0, runs=False)
    decisions.due(10.0, runs=False, process_ended=False)
    assert decisions.leaves(10.0, lambda: False) is None
    assert decisions.leaves(10.5, lambda: True) == Leaving(0, "over")
    assert decisions.leaves(10.5 + HOLD_S, lambda: False) == Leaving(0, "over")


def test_who_stops_waits_for_nobody() -> None:
    decisions = Decisions(GRACE_S)
    assert decisions.leaves(9.0, lambda: False) is None
    decisions.sigterm(10.0)
    decisions.due(10.0, runs=False, process_ended=False)
    assert decisions.leaves(10.0, lambda: False) == Leaving(ExitCode.STOPPED, "stopped by SIGTERM")
