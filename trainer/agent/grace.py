"""The time between SIGTERM and SIGKILL: what an orderly end takes, by what was measured so far, and whether it fits. Pure."""

from dataclasses import dataclass


def reserve_s(grace_s: float) -> float:
    """What is kept back of the grace period for the agent itself, after its processes."""
    return min(2.0, grace_s / 4)


@dataclass(frozen=True)
class StopPace:
    """What was measured in this attempt."""

    block_s: float
    """The longest of the last blocks; 0 before the first."""
    save_s: float | None
    """The last save, from the beginning of its copy to its commit; None where none was made, or another worker makes them."""
    committed: int | None
    """The step of the last commit."""

    @property
    def in_words(self) -> str:
        """`a block takes up to 0.7 s, the last save took 0.4 s`."""
        parts = [f"a block takes up to {self.block_s:.1f} s"]
        if self.save_s is not None:
            parts.append(f"the last save took {self.save_s:.1f} s")
        return ", ".join(parts)


def fits(grace_s: float, pace: StopPace) -> bool:
    """Whether a block and a save end within the grace period, as far as is known. An evaluation is cut short."""
    return pace.block_s + (pace.save_s or 0.0) <= grace_s - reserve_s(grace_s)


def at_sigterm(left_s: float, grace_s: float, pace: StopPace | None) -> str:
    """What to expect. `pace`: None where no attempt runs."""
    begin = f"SIGTERM: stopping within {left_s:.0f} s"
    if pace is None:
        return begin
    if fits(grace_s, pace):
        return f"{begin}; {pace.in_words}"
    stands = f"the commit of step {pace.committed} stands" if pace.committed is not None else "nothing is committed yet"
    return f"{begin}; {pace.in_words}: it may not suffice, and then {stands}"


def when_left(grace_s: float, used_s: float, committed: int | None) -> str:
    """How it went."""
    saved = f"; the last commit is of step {committed}" if committed is not None else ""
    return f"left {used_s:.1f} s after SIGTERM, {max(grace_s - used_s, 0.0):.1f} s of the grace period unused{saved}"
