"""Who is to blame for the end of an attempt, and when a job gives up."""

from datetime import UTC, datetime

import pytest

from trainer.coordinator.verdict import Loss, backoff_s, crash_loop, end_of_attempt, ends_of_launch, give_up
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, Launch
from trainer.wire.coordinator import ExitReport

AT = datetime(2026, 1, 1, tzinfo=UTC)


def loss(worker: int, at_s: float, code: int, **facts: object) -> Loss:
    return Loss(
        worker, at_s, ExitReport.model_validate({"attempt": 1, "code": code, "step": 40, "blocks": True, **facts})
    )


def ended(*losses: Loss, limit: int | None = None) -> AttemptEnd:
    return end_of_attempt(1, losses, memory_limit=limit, at=AT)


def test_echoes_are_not_blamed_although_they_were_noticed_first() -> None:
    end = ended(loss(0, 1.0, 75), loss(1, 1.2, 137))
    assert (end.worker, end.code) == (1, 137)
    assert end.reason == "worker 1: killed (SIGKILL) (step 40)"


@pytest.mark.parametrize("code", [70, 78])
def test_a_task_error_beats_a_crash_that_came_first(code: int) -> None:
    end = ended(loss(1, 1.0, 139), loss(0, 2.0, code, exception="ValueError", message="no such column\nmore"))
    assert (end.worker, end.code) == (0, code)
    assert "ValueError: no such column" in end.reason
    assert "more" not in end.reason


def test_a_process_that_had_to_be_killed_after_silence_is_a_hang() -> None:
    end = ended(loss(0, 1.0, 75), loss(1, 1.4, 137, killed_by_agent=True, silent_s=9.8))
    assert (end.worker, end.code) == (1, 76)
    assert "silent for 10 s" in end.reason


def test_a_process_killed_because_the_attempt_was_over_is_not_blamed() -> None:
    end = ended(loss(1, 1.4, 137, killed_by_agent=True, silent_s=0.3), loss(0, 1.0, 75))
    assert (end.worker, end.code) == (0, 75)


def test_a_silent_agent_is_named() -> None:
    end = ended(loss(0, 20.0, 75), Loss(1, 12.0, why="has been silent for 10 s"))
    assert end.reason == "worker 1 has been silent for 10 s"


def test_a_damaged_checkpoint_is_the_reason_before_its_echoes() -> None:
    end = ended(loss(0, 1.0, 137), loss(1, 2.0, 75, bad_commit="step-40.attempt-1", message="shard 1 is damaged"))
    assert end.reason == "worker 1: shard 1 is damaged"


def test_without_any_report_the_coordinator_was_lost() -> None:
    assert ended().reason == "coordinator lost"


def end_at(
    step: int, code: int = 134, exception: str = "", *, blocks: bool = True, memory_full: bool = False
) -> AttemptEnd:
    return AttemptEnd(
        attempt=1, code=code, reason="x", exception=exception, step=step, blocks=blocks, memory_full=memory_full
    )


def test_three_equal_crashes_at_one_step_are_a_loop() -> None:
    assert crash_loop([end_at(1), end_at(7), end_at(7), end_at(7)])
    assert not crash_loop([end_at(7), end_at(7)])
    assert not crash_loop([end_at(7), end_at(8), end_at(7)])
    assert not crash_loop([end_at(7), end_at(7, exception="Other"), end_at(7)])


def test_lost_peers_and_plain_kills_are_no_loop_but_kills_with_full_memory_are() -> None:
    assert not crash_loop([end_at(7, 75)] * 3)
    assert not crash_loop([end_at(7, 137)] * 3)
    assert crash_loop([end_at(7, 137, memory_full=True)] * 3)


def test_a_process_that_linux_killed_for_want_of_memory_is_told_so_whatever_was_measured() -> None:
    report = ExitReport(
        attempt=1, code=137, message="out of memory: Linux killed it when it had 1.0 GiB", out_of_memory=True
    )
    end = end_of_attempt(1, [Loss(1, 1.0, report)], memory_limit=4 * 2**30, at=AT)
    assert end.memory_full
    assert end.reason == "worker 1: killed (SIGKILL): out of memory: Linux killed it when it had 1.0 GiB"


def test_only_barren_attempts_make_the_next_one_wait() -> None:
    barren = end_at(0, 75, blocks=False)
    assert [backoff_s([barren] * count) for count in range(10)] == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60]
    assert backoff_s([barren, barren, barren, end_at(3)]) == 0


def test_a_job_gives_up_when_the_budget_is_used_and_names_the_last_code() -> None:
    assert give_up(end_at(7, 75), [], budget_used=20, budget_max=20) is None
    verdict = give_up(end_at(7, 75), [], budget_used=21, budget_max=20)
    assert verdict is not None
    assert verdict.code == 77
    assert "code 75" in verdict.reason


def test_a_script_that_failed_first_ends_the_job_as_a_task_error() -> None:
    verdict = give_up(end_at(0, 1), [], budget_used=0, budget_max=20)
    assert verdict is not None
    assert verdict.code == 70


def test_who_was_told_to_leave_is_named_and_not_a_peer_that_left_with_it() -> None:
    end = ended(loss(0, 1.0, 143), loss(1, 1.2, 143, asked=True))
    assert (end.worker, end.code) == (1, 143)
    assert end.reason == "worker 1 was told to leave (SIGTERM)"
    late = ended(loss(0, 1.0, 75), loss(1, 9.0, 143, asked=True, message="the grace period was too short to save"))
    assert late.reason == "worker 1 was told to leave (SIGTERM): the grace period was too short to save"


def test_who_was_told_to_leave_is_named_and_not_those_who_waited_for_it_in_a_long_step() -> None:
    waited = loss(1, 9.0, 137, killed_by_agent=True, silent_s=20.0)
    end = ended(loss(0, 8.0, 143, asked=True, message="the grace period was too short to save"), waited)
    assert (end.worker, end.code) == (0, 143)


def test_an_agent_that_went_with_its_memory_full_is_a_crash_and_one_with_room_is_not() -> None:
    full = end_of_attempt(1, [Loss(1, 1.0, why="was replaced", memory_bytes=95)], memory_limit=100, at=AT)
    assert (full.code, full.memory_full) == (137, True)
    assert "probably out of memory" in full.reason
    room = end_of_attempt(1, [Loss(1, 1.0, why="was replaced", memory_bytes=80)], memory_limit=100, at=AT)
    assert (room.code, room.memory_full) == (75, False)


def test_crashes_within_a_block_of_each_other_are_at_the_same_step() -> None:
    def crash(step: int, block_steps: int) -> AttemptEnd:
        return AttemptEnd(attempt=1, code=139, reason="", step=step, block_steps=block_steps)

    assert crash_loop([crash(100, 20), crash(110, 20), crash(118, 20)])
    assert not crash_loop([crash(100, 10), crash(110, 10), crash(118, 10)])


def test_why_a_worker_was_lost_is_told_also_when_its_agent_comes_back_with_nothing_to_tell() -> None:
    ended_by_agent = loss(1, 12.0, 137, killed_by_agent=True).report
    back = Loss(1, 12.0, ended_by_agent, why="has been silent for 10 s")
    end = ended(loss(0, 13.0, 75, killed_by_agent=True), back)
    assert (end.worker, end.code, end.reason) == (1, 75, "worker 1 has been silent for 10 s")
    crashed = Loss(1, 12.0, loss(1, 12.0, 139).report, why="has been silent for 10 s")
    assert ended(crashed).code == 139, "what it did by itself says more"


def test_an_attempt_whose_commit_was_gone_on_from_has_trained_whoever_was_left_to_say_so() -> None:
    def record(number: int, restore: CommitRef | None) -> AttemptRecord:
        previous = AttemptEnd(attempt=number - 1, code=75, reason="worker 0 was replaced", at=AT)
        return AttemptRecord(
            number=number,
            nonce="n",
            launch=Launch(id="l", started=AT),
            created=AT,
            members=[],
            restore=restore,
            world_size=1,
            previous=previous if number > 1 else None,
        )

    records = [record(1, None), record(2, CommitRef(step=10, attempt=1)), record(3, CommitRef(step=10, attempt=1))]
    assert [end.blocks for end in ends_of_launch(records, "l")] == [True, False]
