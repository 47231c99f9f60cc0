"""The list of all tasks: what each of them shows, how it is run, and what may differ. Free of TensorFlow until `load`."""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

FAMILIES = (
    "models",
    "layers",
    "recurrent",
    "losses",
    "metrics",
    "optimizers",
    "steps",
    "networks",
    "callbacks",
    "data",
)
MODES = ("one", "xla", "killed", "four", "two", "script")
"""one: one worker, compiled as graph like Keras' fit on a CPU. xla: compiled as the trainer would by itself. killed: as one, but
stopped hard and gone on from a commit in the middle. four: MirroredStrategy over four logical CPUs. two: two worker processes.
script: two worker processes too, in which the oracle itself, with its model.fit, is run as train.script runs a script."""

RUNS = ("oracle", "oracle-xla", *MODES)
"""What is run: the modes, and what they are compared with."""
OF_SEVERAL = {"four": ("four",), "two": ("two", "script")}
"""The modes with several replicas, by the kind of processes that run them."""

Part = Literal["fast", "ci", "whole"]
_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Entry:
    """One task of the suite."""

    id: str
    family: str
    shows: str
    task: str
    """package.module:Class, as a job file has it."""
    params: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the job file's train section, over those that all tasks have."""
    part: Part = "ci"
    modes: tuple[str, ...] = MODES
    also: tuple[str, ...] = ()
    """In the parts fast and ci: modes besides `one`, `killed`, and those that suite.py gives to a kind of task in ci."""
    random: Literal["", "layer", "step"] = ""
    """Whether it draws random numbers in training: in a layer each replica draws its own."""
    normal: bool = False
    """Whether they are normal: XLA makes others of the same bits than a graph does."""
    other_logs: tuple[str, ...] = ()
    """Names of logs that are not compared with fit's, for the reason in `why`."""
    other: bool = False
    """Whether plain fit gives other numbers than those that are right, which the oracle has by hand; `why` says which."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """By mode, what the refusal says: a regular expression."""
    ends: str = ""
    """What the error says with which the job is to end in training, in every mode: a regular expression."""
    allowed: Mapping[str, float] = field(default_factory=dict)
    """By mode, how far the numbers may be from the oracle's, where that is more than rounding gives elsewhere."""
    needs: str = ""
    """A package without which it is not run."""
    why: str = ""
    """Why something is refused, allowed to differ, or another number than Keras' is right."""

    def allows(self, mode: str) -> float | None:
        """How far the numbers may be in a mode, where that is said. A script of two workers is as two workers are."""
        return self.allowed.get(mode, self.allowed.get("two") if mode == "script" else None)

    def refuses(self, mode: str) -> str | None:
        """What the refusal in a mode says, where there is to be one."""
        return self.refused.get(mode, self.refused.get("two") if mode == "script" else None)


_entries: dict[str, Entry] = {}


def overrides_step(task: type) -> bool:
    """Whether a task has a train_step of its own, its or its parent's: then there is no fit."""
    return any("train_step" in vars(kind) for kind in task.__mro__ if kind.__name__ != "Task")


def entry(shows: str, *, id: str | None = None, **fields: Any) -> Callable[[_Class], _Class]:
    """Decorates a Task: one entry of the list, several where it stands several times with other params."""

    def register(task: _Class) -> _Class:
        name = id or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", task.__name__).lower()
        if name in _entries:
            raise ValueError(f"two entries are called {name}")
        family = task.__module__.rpartition(".")[2]
        made = Entry(name, family, shows, f"{task.__module__}:{task.__name__}", **fields)
        if overrides_step(task) or getattr(task, "by_hand", False) or made.other or "two" not in made.modes:
            # There is no call of fit in it, or the right numbers are not fit's.
            made = replace(made, modes=tuple(mode for mode in made.modes if mode != "script"))
        _entries[name] = made
        return task

    return register


def load() -> dict[str, Entry]:
    """All entries by id, in the order of the families."""
    for family in FAMILIES:
        importlib.import_module(f"tests.conformance.{family}")
    return dict(sorted(_entries.items(), key=lambda item: FAMILIES.index(item[1].family)))


def of_part(entries: Mapping[str, Entry], part: Part) -> list[Entry]:
    """Those of a part: ci holds fast too, whole holds all."""
    parts = {"fast": {"fast"}, "ci": {"fast", "ci"}, "whole": {"fast", "ci", "whole"}}[part]
    return [entry for entry in entries.values() if entry.part in parts]
