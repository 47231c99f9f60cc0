"""The kinds of faults. What one does, when and to whom is drawn from the seed and its number alone; then it acts on a job."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.faults import POINTS

if TYPE_CHECKING:
    from tests.chaos.leg import Leg

Act = Callable[["Leg"], Path | None]
"""Does it; the file of an armed fault point, which is gone once the fault has happened."""
Drawn = tuple[str, Act]
"""In words, and the act."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    name: str
    draw: Callable[[random.Random, int], Drawn]
    """From a generator and the number of workers."""
    weight: int
    ends_attempt: bool
    """Whether an attempt must end by it; else training may go on as if nothing had happened."""
    stores: tuple[str, ...] = ("gcs", "local")
    needs_disk: bool = False
    """Whether a folder must be a small file system of its own."""


@dataclass(frozen=True)
class Fault:
    """One fault, drawn."""

    kind: Kind
    pause_s: float
    """After training has gone on from the one before."""
    told: str
    act: Act


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# --- signals


def _to_process(*numbers: signal.Signals) -> Callable[[random.Random, int], Drawn]:
    def draw(choice: random.Random, workers: int) -> Drawn:
        worker, number = choice.randrange(workers), choice.choice(numbers)
        return f"{number.name} to the training process of worker {worker}", lambda leg: _signal(
            leg.trainer(worker), number
        )

    return draw


def _to_agent(number: signal.Signals) -> Callable[[random.Random, int], Drawn]:
    def draw(choice: random.Random, workers: int) -> Drawn:
        worker = choice.randrange(workers)
        return f"{number.name} to the agent of worker {worker}", lambda leg: _signal(leg.agent(worker), number)

    return draw


def _to_writer(number: signal.Signals) -> Callable[[random.Random, int], Drawn]:
    return lambda choice, workers: (f"{number.name} to the writer", lambda leg: _signal(leg.writer(), number))


def _to_spare(choice: random.Random, workers: int) -> Drawn:
    """And then the process whose place it would take is killed."""
    worker, number = choice.randrange(workers), choice.choice([signal.SIGKILL, signal.SIGSTOP])

    def act(leg: "Leg") -> None:
        _signal(leg.spare(worker), number)
        _signal(leg.trainer(worker), signal.SIGKILL)

    return f"{number.name} to the spare process of worker {worker}, and its training process killed", act


kill_process = _to_process(signal.SIGKILL)
freeze_process = _to_process(signal.SIGSTOP)
kill_agent = _to_agent(signal.SIGKILL)
preempt = _to_agent(signal.SIGTERM)
kill_writer = _to_writer(signal.SIGKILL)


def doze(choice: random.Random, workers: int) -> Drawn:
    """Frozen and woken again, before or after the others have noticed."""
    worker, seconds = choice.randrange(workers), choice.choice([0.5, 2.0, 4.5])
    who = choice.choice(["training process", "agent", "writer"])

    def act(leg: "Leg") -> None:
        pid = {
            "training process": lambda: leg.trainer(worker),
            "agent": lambda: leg.agent(worker),
            "writer": leg.writer,
        }[who]()
        _signal(pid, signal.SIGSTOP)
        time.sleep(seconds)
        _signal(pid, signal.SIGCONT)

    return f"{who}{'' if who == 'writer' else f' of worker {worker}'}, for {seconds} s", act


# --- everything at once


def kill_everything(choice: random.Random, workers: int) -> Drawn:
    def act(leg: "Leg") -> None:
        leg.run.kill_everything()
        leg.launch()

    return "all processes, and run again", act


def interrupt(choice: random.Random, workers: int) -> Drawn:
    def act(leg: "Leg") -> None:
        leg.interrupt()
        leg.launch()

    return "Ctrl-C, and run again", act


def resize(choice: random.Random, workers: int) -> Drawn:
    """Weights then differ from the undisturbed job's by more than rounding (Dropout), but the examples must be the same."""
    others = choice.choice([number for number in range(1, workers + 2) if number != workers])

    def act(leg: "Leg") -> None:
        leg.interrupt()
        leg.compare_commits()
        leg.launch(workers=others)

    return f"Ctrl-C, and run again with {others}", act


def two_at_once(choice: random.Random, workers: int) -> Drawn:
    first, act_first = choice.choice([kill_process, kill_agent, preempt, kill_writer])(choice, workers)
    gap_s = choice.choice([0.0, 0.3, 2.0, 3.5])
    second, act_second = choice.choice([kill_process, kill_agent, freeze_process])(choice, workers)

    def act(leg: "Leg") -> None:
        act_first(leg)
        time.sleep(gap_s)
        act_second(leg)

    return f"{first}; {gap_s} s later {second}", act


# --- old processes that wake up


def wake_old_agent(choice: random.Random, workers: int) -> Drawn:
    """Frozen, replaced, and woken when the others have gone on. (Worker 0 has one address here: see wake_old_run.)"""
    worker = choice.randrange(1, workers)
    return f"agent and process of worker {worker} frozen, replaced, woken", lambda leg: leg.replace_frozen_agent(worker)


def wake_old_run(choice: random.Random, workers: int) -> Drawn:
    """All of a launch frozen, worker 0 and its writer too; another launch takes over; then the first is woken."""
    return "a whole run frozen, run again elsewhere, woken", lambda leg: leg.replace_frozen_run()


# --- in the middle of something

END_POINTS = (
    "process.last-saved",
    "process.exported",
    "process.reported",
    "process.left",
    "coordinator.before-append",
    "coordinator.after-append",
    "agent.process-ended",
    "agent.end-known",
    "agent.before-exit",
)
"""Points that a job passes at its end, those of all its ends first."""
_AT_THE_END_ONLY = {point for point in END_POINTS if point.startswith("process.")} | {
    "agent.end-known",
    "agent.before-exit",
}
MIDDLE_POINTS = tuple(point for point in POINTS if point not in _AT_THE_END_ONLY)
_CHIEFS = ("writer.", "coordinator.", "process.exported", "process.reported")
_WHILE_TRAINING = ("writer.", "process.block", "process.before", "process.after", "process.evaluated")


def at_a_point(choice: random.Random, workers: int) -> Drawn:
    point, worker, other = choice.choice(MIDDLE_POINTS), choice.randrange(workers), choice.randrange(workers)
    action = choice.choice(["kill", "kill", "stop", "sleep 2"])
    if action == "stop" and not point.startswith(("process.", "writer.")):
        action = "kill"  # whoever stops an agent is in another fault
    worker = 0 if point.startswith(_CHIEFS) else worker

    def act(leg: "Leg") -> Path:
        armed = leg.arm(point, action, worker)
        # Some points are reached in a recovery only.
        if not point.startswith(_WHILE_TRAINING):
            _signal(leg.trainer(other), signal.SIGKILL)
        return armed

    return f"{action} at {point} of worker {worker}", act


def hang(choice: random.Random, workers: int) -> Drawn:
    """A process that stands still by itself, while its peers sit in a collective; nothing has stopped it."""
    worker = choice.randrange(workers)
    return f"worker {worker} stands still after a block", lambda leg: leg.arm("process.block", "sleep 900", worker)


def draw_end(seed: int, leg: int, workers: int) -> list[tuple[str, int]]:
    """Where the end of a job is disturbed: one or two points, each with a worker."""
    choice = random.Random(f"{seed}/end/{leg}")
    points = choice.sample(END_POINTS, choice.choice([1, 2]))
    return [(point, 0 if point.startswith(_CHIEFS) else choice.randrange(workers)) for point in points]


# --- stores and disks

_OUTAGES_S = [2.0, 6.0, 20.0, 45.0]


def _and_perhaps_a_kill(choice: random.Random, workers: int, told: str, act: Callable[["Leg"], object]) -> Drawn:
    killed, act_kill = kill_process(choice, workers)
    both = choice.random() < 0.5

    def act_both(leg: "Leg") -> None:
        act(leg)
        if both:
            act_kill(leg)

    return f"{told}; {killed}" if both else told, act_both


def store_trouble(choice: random.Random, workers: int) -> Drawn:
    how = choice.choice([503, 429, 403, "reset", "lose", "stall", "trickle", "cut"])
    seconds = choice.choice(_OUTAGES_S)
    return _and_perhaps_a_kill(choice, workers, f"{how} for {seconds} s", lambda leg: leg.trouble(how, seconds))


def fill_run_directory(choice: random.Random, workers: int) -> Drawn:
    seconds = choice.choice(_OUTAGES_S)
    act = lambda leg: leg.fill("run", seconds)  # noqa: E731
    return _and_perhaps_a_kill(choice, workers, f"the run directory is full for {seconds} s", act)


def fill_temporary(choice: random.Random, workers: int) -> Drawn:
    seconds = choice.choice([2.0, 6.0])
    act = lambda leg: leg.fill("temporary", seconds)  # noqa: E731
    return _and_perhaps_a_kill(choice, workers, f"the temporary folder is full for {seconds} s", act)


def damage(choice: random.Random, workers: int) -> Drawn:
    """The newest checkpoint's bytes change on the disk of the store, and the job must go back behind it."""
    return "a byte of the newest checkpoint, and all killed", lambda leg: leg.damage_newest()


KINDS = (
    Kind("process killed", kill_process, 4, True),
    Kind("process crashed", _to_process(signal.SIGSEGV, signal.SIGABRT), 2, True),
    Kind("process frozen", freeze_process, 3, True),
    Kind("spare process lost", _to_spare, 2, True),
    Kind("process hung", hang, 2, True),
    Kind("agent killed", kill_agent, 4, True),
    Kind("agent frozen", _to_agent(signal.SIGSTOP), 2, True),
    Kind("writer killed", kill_writer, 2, False),
    Kind("writer frozen", _to_writer(signal.SIGSTOP), 2, False),
    Kind("frozen for a while", doze, 3, False),
    Kind("old agent woken", wake_old_agent, 2, True),
    Kind("old run woken", wake_old_run, 2, True),
    Kind("preempted", preempt, 4, True),
    Kind("all killed", kill_everything, 2, True),
    Kind("Ctrl-C", interrupt, 2, True),
    Kind("other number of workers", resize, 1, True),
    Kind("at a fault point", at_a_point, 8, False),
    Kind("two at once", two_at_once, 4, True),
    Kind("store trouble", store_trouble, 5, False, ("gcs",)),
    Kind("run directory full", fill_run_directory, 5, False, ("local",), needs_disk=True),
    Kind("temporary folder full", fill_temporary, 2, False, needs_disk=True),
    Kind("checkpoint damaged", damage, 1, True),
)
AT_THE_END = "at the job's end"


def draw(seed: int, number: int, *, workers: int, store: str, only: Sequence[str] = ()) -> Fault:
    """Fault `number` of a seed: always the same. `only`: of the kinds of these names."""
    choice = random.Random(f"{seed}/{number}")
    kinds = [kind for kind in KINDS if store in kind.stores and (workers > 1 or kind.draw is not wake_old_agent)]
    kinds = [kind for kind in kinds if not only or kind.name in only]
    kind = choice.choices(kinds, [kind.weight for kind in kinds])[0]
    pause_s = choice.uniform(0.0, 3.0)
    told, act = kind.draw(choice, workers)
    return Fault(kind, pause_s, told, act)
