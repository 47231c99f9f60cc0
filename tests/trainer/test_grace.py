"""What a preempted worker can expect of its grace period, by what was measured."""

from trainer.agent.grace import StopPace, at_sigterm, fits, reserve_s, when_left
from trainer.agent.ports import PORTS, free_port
from trainer.agent.watchdog import Watchdog
from trainer.wire.process import Phase


def test_a_block_and_a_save_must_fit_into_what_the_agent_does_not_need_itself() -> None:
    assert reserve_s(60) == 2
    assert reserve_s(4) == 1
    assert fits(15, StopPace(block_s=1.0, save_s=12.0, committed=80))
    assert not fits(15, StopPace(block_s=1.5, save_s=12.0, committed=80))
    assert fits(15, StopPace(block_s=1.0, save_s=None, committed=None)), (
        "a save that was never made is not known to be long"
    )


def test_the_words_at_sigterm_hold_what_was_measured_and_what_stands_otherwise() -> None:
    assert at_sigterm(20, 20, None) == "SIGTERM: stopping within 20 s"
    enough = at_sigterm(20, 20, StopPace(0.7, 0.4, 80))
    assert enough == "SIGTERM: stopping within 20 s; a block takes up to 0.7 s, the last save took 0.4 s"
    assert at_sigterm(3, 3, StopPace(0.7, 9.0, 80)).endswith(
        "it may not suffice, and then the commit of step 80 stands"
    )
    assert at_sigterm(3, 3, StopPace(5.0, None, None)).endswith("nothing is committed yet")


def test_the_words_at_the_end_tell_what_was_left() -> None:
    told = when_left(20, 1.25, 113)
    assert told == "left 1.2 s after SIGTERM, 18.8 s of the grace period unused; the last commit is of step 113"
    assert when_left(20, 21, None) == "left 21.0 s after SIGTERM, 0.0 s of the grace period unused"


def test_only_a_save_that_ends_the_attempt_is_waited_for() -> None:
    dog = Watchdog(None)
    dog.block(0.5)
    dog.entered(Phase.SAVE, 500_000_000)
    assert dog.limit_s() == 10.0 + 10.0, "as a block, and time to copy"
    dog.entered(Phase.SAVE, 500_000_000, waits=True)
    assert dog.limit_s() > 900


def test_workers_of_one_machine_draw_from_ports_of_their_own() -> None:
    drawn = {index: {free_port("127.0.0.1", index, 3) for _ in range(50)} for index in range(3)}
    assert all((port - PORTS.start) % 3 == index for index, ports in drawn.items() for port in ports)
    assert free_port("127.0.0.1", 0, 10**4, not_this=PORTS.start) == PORTS.start + 10**4
