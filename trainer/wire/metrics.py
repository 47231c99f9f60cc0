"""What the chief's agent adds of its own to the metrics of the run directory; the rest is what its process and writer say."""

from typing import Literal

from trainer.rundir.attempts import Wire


class Stalled(Wire):
    """Training stood still for the copy of a save."""

    type: Literal["stalled"] = "stalled"
    step: int
    why: Literal["interval", "stop", "last"]
    seconds: float
    size_bytes: int


class ProcessEnded(Wire):
    """The chief's training process has ended."""

    type: Literal["ended"] = "ended"
    code: int
    step: int
    exception: str = ""


class Alive(Wire):
    """Nothing new was told for a while, and the agent is there."""

    type: Literal["alive"] = "alive"
    step: int
