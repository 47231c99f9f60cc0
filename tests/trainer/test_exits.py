"""How a training process ended, by what its agent saw of it."""

import pytest

from trainer.agent.exits import Ending, exit_report
from trainer.exit_codes import ExitCode
from trainer.wire.process import Failure, Phase


def ending(status: int, **fields: object) -> Ending:
    return Ending(attempt=1, status=status, phase=Phase.TRAIN, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [0, 1, 2, 75, 137, 143])
def test_a_program_that_was_told_to_leave_is_stopped_and_never_done(status: int) -> None:
    report = exit_report(ending(status, command=True, asked=True))
    assert report.code == ExitCode.STOPPED
    assert report.asked


def test_a_program_that_fails_for_good_while_it_is_told_to_leave_has_failed() -> None:
    assert exit_report(ending(70, command=True, asked=True)).code == ExitCode.TASK_ERROR


@pytest.mark.parametrize(("status", "code"), [(1, 1), (2, 1), (5, 1), (0, 0), (75, 75), (70, 70), (139, 139)])
def test_a_program_that_fails_in_its_own_words_has_failed_as_a_script(status: int, code: int) -> None:
    assert exit_report(ending(status, command=True)).code == code


def test_a_process_that_its_agent_had_to_kill_at_the_end_of_the_grace_period_did_not_hang() -> None:
    report = exit_report(ending(137, asked=True, killed_silent_s=12.0))
    assert (report.code, report.killed_by_agent, report.silent_s) == (ExitCode.STOPPED, False, 0.0)
    assert "too short" in report.message


def test_a_process_that_was_told_to_leave_and_trained_to_its_end_is_done() -> None:
    assert exit_report(ending(0, asked=True)).code == ExitCode.DONE


def test_a_hang_says_where_its_stacks_are_and_a_stopped_process_has_none() -> None:
    assert "stacks" in exit_report(ending(137, hung_s=20.0)).message
    stopped = exit_report(ending(137, hung_s=5.0, stopped=True))
    assert stopped.code == ExitCode.HANG
    assert "SIGSTOP" in stopped.message
    assert [exit_report(ending(137, hung_s=20.0)).stacks, stopped.stacks] == [True, False]


def test_a_process_that_the_kernel_killed_for_want_of_memory_says_so() -> None:
    report = exit_report(ending(137, oom_killed=True, memory_peak_bytes=3 << 30))
    assert report.out_of_memory
    assert "3.0 GiB" in report.message
    mine = exit_report(ending(137, oom_killed=True, killed_silent_s=0.1))
    assert not mine.out_of_memory, "its agent killed this one: the kernel's victim was another"


def test_what_a_process_said_of_its_own_end_is_handed_on() -> None:
    failure = Failure(code=70, exception="KeyError", message="a", remedy="b", traceback="t", step=3)
    report = exit_report(ending(70, failure=failure, step=3))
    assert (report.code, report.exception, report.message, report.traceback) == (70, "KeyError", "a", "t")
    assert report.remedy == "b"
    assert exit_report(ending(137, failure=failure, hung_s=9.0)).remedy == "", "it ended otherwise after all"
