"""The kinds of faults. Each acts on a running job and says what it did; which, when and on whom comes from a seed alone."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.faults import POINTS, arm

if TYPE_CHECKING:
    from tests.chaos.leg import Leg


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    name: str
    act: Callable[["Leg", random.Random], str]
    weight: int
    ends_attempt: bool
    """Whether an attempt must end by it; else training may go on as if nothing had happened."""


def _pick(leg: "Leg", choice: random.Random) -> int:
    return choice.randrange(leg.workers)


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_process(leg: "Leg", choice: random.Random) -> str:
    worker = _pick(leg, choice)
    _signal(leg.trainer(worker), signal.SIGKILL)
    return f"training process of worker {worker}"


def freeze_process(leg: "Leg", choice: random.Random) -> str:
    worker = _pick(leg, choice)
    _signal(leg.trainer(worker), signal.SIGSTOP)
    return f"training process of worker {worker}"


def kill_agent(leg: "Leg", choice: random.Random) -> str:
    worker = _pick(leg, choice)
    _signal(leg.agent(worker), signal.SIGKILL)
    return f"agent of worker {worker}"


def freeze_agent(leg: "Leg", choice: random.Random) -> str:
    worker = _pick(leg, choice)
    _signal(leg.agent(worker), signal.SIGSTOP)
    return f"agent of worker {worker}"


def kill_writer(leg: "Leg", choice: random.Random) -> str:
    _signal(leg.writer(), signal.SIGKILL)
    return "the writer"


def freeze_writer(leg: "Leg", choice: random.Random) -> str:
    _signal(leg.writer(), signal.SIGSTOP)
    return "the writer"


def doze(leg: "Leg", choice: random.Random) -> str:
    """Frozen and woken again, while the others may or may not have noticed: a zombie where they have."""
    worker, seconds = _pick(leg, choice), choice.choice([0.5, 2.0, 4.5])
    who = choice.choice(["training process", "agent", "writer"])
    pid = {"training process": lambda: leg.trainer(worker), "agent": lambda: leg.agent(worker), "writer": leg.writer}[
        who
    ]()
    _signal(pid, signal.SIGSTOP)
    time.sleep(seconds)
    _signal(pid, signal.SIGCONT)
    return f"{who}{'' if who == 'writer' else f' of worker {worker}'}, for {seconds} s"


def preempt(leg: "Leg", choice: random.Random) -> str:
    worker = _pick(leg, choice)
    _signal(leg.agent(worker), signal.SIGTERM)
    return f"SIGTERM to worker {worker}"


def kill_everything(leg: "Leg", choice: random.Random) -> str:
    leg.run.kill_everything()
    leg.launch()
    return "all processes, and run again"


def interrupt(leg: "Leg", choice: random.Random) -> str:
    _signal(leg.run.process.pid, signal.SIGINT)
    leg.run.process.wait(90)
    leg.launch()
    return "Ctrl-C, and run again"


def at_a_point(leg: "Leg", choice: random.Random) -> str:
    point, worker = choice.choice(POINTS), _pick(leg, choice)
    action = choice.choice(["kill", "kill", "stop", "sleep 2"])
    if action == "stop" and not point.startswith(("process.", "writer.")):
        action = "kill"  # whoever stops an agent is in another fault
    if point.startswith(("writer.", "coordinator.")):
        worker = 0
    arm(leg.faults, point, action, worker=worker)
    # Some points are reached in a recovery only.
    if not point.startswith(("writer.", "process.block", "process.before", "process.after", "process.evaluated")):
        _signal(leg.trainer(_pick(leg, choice)), signal.SIGKILL)
    return f"{action} at {point} of worker {worker}"


def two_at_once(leg: "Leg", choice: random.Random) -> str:
    first, second = (
        choice.choice([kill_process, kill_agent, preempt]),
        choice.choice([kill_process, kill_agent, freeze_process]),
    )
    told = first(leg, choice)
    time.sleep(choice.choice([0.0, 0.3, 2.0, 3.5]))
    return f"{told}; {second(leg, choice)}"


def store_trouble(leg: "Leg", choice: random.Random) -> str:
    how = choice.choice([503, 429, "reset", "lose", "stall"])
    seconds = choice.choice([1.0, 3.0, 6.0])
    leg.store_fault = how
    timer = threading.Timer(seconds, lambda: setattr(leg, "store_fault", None))
    timer.daemon = True
    timer.start()
    if choice.random() < 0.5:
        kill_process(leg, choice)
        return f"{how} for {seconds} s, and a training process killed"
    return f"{how} for {seconds} s"


def damage(leg: "Leg", choice: random.Random) -> str:
    """The newest checkpoint's bytes change on the disk of the store, and the job must go back behind it."""
    return leg.damage_newest() or kill_process(leg, choice)


KINDS = (
    Kind("process killed", kill_process, 4, True),
    Kind("process frozen", freeze_process, 3, True),
    Kind("agent killed", kill_agent, 4, True),
    Kind("agent frozen", freeze_agent, 2, True),
    Kind("writer killed", kill_writer, 2, False),
    Kind("writer frozen", freeze_writer, 2, False),
    Kind("frozen for a while", doze, 3, False),
    Kind("preempted", preempt, 4, True),
    Kind("all killed", kill_everything, 2, True),
    Kind("Ctrl-C", interrupt, 2, True),
    Kind("at a fault point", at_a_point, 8, False),
    Kind("two at once", two_at_once, 4, True),
    Kind("store trouble", store_trouble, 4, False),
    Kind("checkpoint damaged", damage, 1, True),
)


def draw(choice: random.Random) -> Kind:
    """The next fault."""
    return choice.choices(KINDS, [kind.weight for kind in KINDS])[0]
