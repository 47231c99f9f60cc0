"""What `orch run` shows while it runs: a live line on a terminal, plain lines elsewhere, both on stderr.

Printing has a thread of its own and a bounded queue: a reader that does not read costs lines, never training.
"""

import sys
import threading
import time
from typing import TextIO

from orchestrator.text import duration
from trainer.agent.output import LossyQueue
from trainer.wire.coordinator import JobState

STATE_BYTES = 1000
"""What a state counts for in the queue."""
PLAIN_S = 5.0
CLOSE_S = 5.0


class Printer:
    """Prints lines and the progress of a job."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._queue: LossyQueue[str | JobState] = LossyQueue()
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """Print a line, soon; it is dropped and counted while the reader does not read."""
        self._queue.put(text, len(text))

    def progress(self, state: JobState) -> None:
        """Show where the job is."""
        self._queue.put(state, STATE_BYTES)

    def close(self) -> None:
        """Give what is queued a few seconds to leave."""
        self._queue.close()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            if self._live:
                self._run_live()
            else:
                self._run_plain()
        except (OSError, ValueError):
            # The reader has gone; there is nobody left to tell.
            return

    def _run_plain(self) -> None:
        next_s = 0.0
        last = ""
        while (item := self._queue.get()) is not None:
            if dropped := self._queue.take_dropped():
                self._stream.write(f"[{dropped} lines dropped: the reader was too slow]\n")
            if isinstance(item, JobState):
                text = describe(item)
                if time.monotonic() < next_s or text == last:
                    continue
                next_s, last = time.monotonic() + PLAIN_S, text
                item = text
            self._stream.write(item + "\n")
            self._stream.flush()

    def _run_live(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(file=self._stream, highlight=False)
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            while (item := self._queue.get()) is not None:
                if isinstance(item, JobState):
                    live.update(Text(bar(item), no_wrap=True, overflow="ellipsis"))
                else:
                    console.print(item, markup=False, soft_wrap=True)


def describe(state: JobState) -> str:
    """`step 400/2000 (20%)  350.2 steps/s  loss 0.231  ETA 5 s`, or what the job waits for."""
    if state.state != "running":
        return f"{state.state}: {state.reason}" if state.reason else state.state
    phase = next((report.phase for report in state.workers if report.index == 0), None)
    if state.rate == 0:
        return f"attempt {state.attempt}: {phase or 'starting'}"
    parts = [f"step {state.step}" + (f"/{state.total_steps}" if state.total_steps else "")]
    if state.total_steps:
        parts[0] += f" ({100 * state.step / state.total_steps:.0f}%)"
    parts.append(f"{state.rate:.1f} steps/s")
    parts += [f"{name} {value:.4g}" for name, value in state.metrics.items()][:4]
    if state.total_steps and state.rate > 0:
        parts.append(f"ETA {duration(max(state.total_steps - state.step, 0) / state.rate)}")
    troubled = [report for report in state.workers if report.save_error]
    if troubled:
        parts.append(f"last save failed: {troubled[0].save_error}")
    return "  ".join(parts)


def bar(state: JobState, width: int = 20) -> str:
    """The same with a bar before it."""
    if state.state != "running" or not state.total_steps:
        return describe(state)
    full = int(width * min(state.step / state.total_steps, 1.0))
    return f"[{'#' * full}{'.' * (width - full)}] {describe(state)}"
