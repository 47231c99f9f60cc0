"""Saves as the training process sees them: when one is due, one in flight at a time, and what became of it."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from trainer import faults
from trainer.checkpoint.snapshot import SnapshotMemory
from trainer.checkpoint.state import TrainingState
from trainer.config import CheckpointSection
from trainer.errors import OrchError, SaveRefused, TaskError
from trainer.exit_codes import ExitCode
from trainer.process.channel import Channel
from trainer.wire.process import Phase, SaveSkipped
from trainer.wire.writer import Saved, SaveFailed, Snapshot

log = logging.getLogger(__name__)


class Superseded(OrchError):
    """A later attempt exists: this process has no business any more."""

    code = ExitCode.STOPPED


class Saves:
    """Copies the state for the writer. `save` is a collective; only the chief knows of writers and answers."""

    def __init__(
        self,
        channel: Channel,
        state: TrainingState,
        memory: SnapshotMemory | None,
        config: CheckpointSection,
        about: Callable[[int], Mapping[str, Any]],
        *,
        restored_step: int | None,
    ) -> None:
        """
        Args:
            memory: the chief's, else None.
            about: the fields of a Snapshot that describe a step: epoch, host_state, versions, ...
            restored_step: the step that was restored, which is saved already; None for a fresh start.
        """
        self._channel, self._state, self._memory, self._config = channel, state, memory, config
        self._about = about
        self._in_flight: int | None = None
        # Before its first step there is nothing to save.
        self._saved_step = restored_step or 0
        self._last_save = time.monotonic()

    def copies(self, state: TrainingState) -> None:
        """From now on `state` is what is saved. A save in flight goes on: the next one waits for it, as always."""
        self._state = state

    def due(self, step: int, *, by_steps: bool) -> bool:
        """On the chief: whether to save after `step`. One that is due while another is in flight is skipped, and counted."""
        self._collect(self._channel.take_answer())
        every_s = self._config.every_s
        by_clock = every_s is not None and time.monotonic() - self._last_save >= every_s
        if not (by_steps or by_clock) or step in (self._saved_step, self._in_flight):
            return False
        if self._in_flight is not None:
            self._last_save = time.monotonic()
            self._channel.send(SaveSkipped(step=step))
            return False
        return True

    def save(self, step: int, why: Literal["interval", "stop", "last"]) -> None:
        """Copy the state and hand it to the writer. A collective."""
        self._channel.enter(Phase.SAVE, step, why)
        if self._memory is not None and self._in_flight is not None:
            self._collect(self._channel.wait_answer())
        began = time.monotonic()
        faults.reach("process.before-copy")
        copied = self._state.copy(self._memory)
        faults.reach("process.after-copy")
        self._last_save = time.monotonic()
        if copied is None:
            return
        tensors, size_bytes = copied
        self._in_flight = step
        self._channel.send(
            Snapshot(
                step=step,
                why=why,
                tensors=tensors,
                size_bytes=size_bytes,
                seconds=self._last_save - began,
                **dict(self._about(step)),
            )
        )

    def is_saved(self, step: int) -> bool:
        """On the chief: whether the state of `step` is committed; waits for a save of it that is in flight."""
        if self._in_flight == step:
            self._collect(self._channel.wait_answer())
        return self._saved_step == step

    def is_handed_over(self, step: int) -> bool:
        """On the chief: whether the state of `step` is committed, or lies whole in the writer's memory."""
        return step in (self._saved_step, self._in_flight)

    def wait_committed(self, step: int) -> None:
        """On the chief: wait until the save of `step` is committed.

        Raises:
            SaveRefused: it failed for good.
        """
        failure = self._collect(self._channel.wait_answer()) if self._in_flight is not None else None
        if self._saved_step != step:
            raise SaveRefused(
                f"the last checkpoint, of step {step}, could not be saved: {failure or 'no answer of the writer'}",
                remedy="Check the run directory (space, permissions, network) and start again: it goes on from the last commit.",
            )

    def diverged(self, said: str) -> TaskError:
        """The error that ends a training whose loss is no finite number, as `said`."""
        good = (
            f"The last good checkpoint is that of step {self._saved_step}."
            if self._saved_step
            else "There is no checkpoint before it."
        )
        return TaskError(
            f"{said}: training has diverged, or the data holds such a value",
            remedy=f"{good} Lower the learning rate, clip gradients, look at the data of that step, or set train.on_nan to "
            "go-on.",
        )

    def release_memory(self) -> None:
        """Give the copy's memory back, once the last save is committed: what follows may need room of its own."""
        if self._memory is not None and self._in_flight is None:
            self._memory.release()

    def _collect(self, answer: Saved | SaveFailed | None) -> str | None:
        """Note what became of the save in flight; the error of a failed one."""
        if answer is None:
            return None
        self._in_flight = None
        if isinstance(answer, Saved):
            self._saved_step = answer.commit.step
            return None
        if answer.superseded:
            raise Superseded(f"a later attempt has begun: {answer.error}")
        log.error("save failed step=%d error=%s", answer.step, answer.error)
        return answer.error
