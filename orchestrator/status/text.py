"""A status as lines of text: what the job is, why, what to do next, and a line for each worker. Pure.

The sentences are the same for a job of a cluster, for what `orch run` ends with, and for a run directory.
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.diagnose.remedy import of_cause
from orchestrator.runs.goodput import broken_off_lines, for_status, history_lines, save_lines
from orchestrator.status.model import JobStatus, WorkerStatus
from orchestrator.text import columns, progress
from trainer.exit_codes import title_of
from trainer.rundir.bucket import is_bucket
from trainer.wire.termination import general_remedy

_MOST_ROWS = 32
_EVENT_CHARS = 60
_TRACEBACK_LINES = 12
_CALM = frozenset({"train", "running", "succeeded"})
_FINISHED_BEFORE = (
    "it was finished before, and nothing was trained now: {}to train anew, use --fresh or another --directory"
)
_FURTHER = "to go on, raise train.steps or train.epochs; "
_COMMAND_FINISHED_BEFORE = (
    "it was finished before, and the command was not run now: to run it again, use --fresh or another --directory"
)


def status_lines(status: JobStatus, target: str, *, here: Path | None = None) -> list[str]:
    """All of it, for a person.

    Args:
        target: what commands call the job: its name, or its run directory.
        here: the folder beside which paths are told; as they are where it is None.
    """
    headline, *more = _sentences(status, target, here, brief=False)
    return [headline, *(f"  {line}" for line in more), *_workers(status)]


def last_lines(status: JobStatus, target: str, *, here: Path | None = None) -> list[str]:
    """The same as far as a person needs it who saw the job end: what `orch run` says last."""
    return _sentences(status, target, here, brief=True)


def summary(status: JobStatus) -> str:
    """One line: what changes as a job goes on, but for its step."""
    again = f" (restarts {status.restarts})" if status.restarts else ""
    return f"{status.name}: {status.state}{again}" + (f": {status.reason}" if status.reason else "")


def short_path(place: str, here: Path | None) -> str:
    """A path as a person types it in this folder; of a bucket, and of what lies elsewhere, the whole of it."""
    if here is None or is_bucket(place) or not Path(place).is_relative_to(here):
        return place
    return str(Path(place).relative_to(here))


def _sentences(status: JobStatus, target: str, here: Path | None, *, brief: bool) -> list[str]:
    ended = status.over or status.state == "stopped"
    at = f" at step {status.step}" if ended else ""
    lines = [f"{status.name}: {status.state}{at}" + (f": {status.reason}" if status.reason else "")]
    if not brief:
        lines += [f"  {line}" for line in status.traceback.rstrip().splitlines()[-_TRACEBACK_LINES:]]
    lines += _what_to_do(status, target)
    if not brief:
        how_far = progress(status.step, status.total_steps, status.rate)
        lines.append(f"{how_far}, attempt {status.attempts}, restarts {status.restarts}")
    lines += _metrics(status, brief=brief)
    if status.weights_sha256 and not brief:
        lines.append(f"weights_sha256 {status.weights_sha256}")
    lines.append(f"run directory: {short_path(status.run_directory, here)}")
    lines += _on_the_way(status, target, brief=brief)
    if status.state == "succeeded":
        lines += [f"exported to {short_path(status.export, here)}"] if status.export else []
        lines += [f"to load the model: {status.load}"] if status.load else []
    return lines


def _what_to_do(status: JobStatus, target: str) -> list[str]:
    lines: list[str] = []
    for trouble in status.troubles:
        if trouble.text != status.reason:
            lines.append(trouble.text)
        lines.append(f"what to do: {trouble.remedy}")
    if status.state == "failed":
        code = status.code or 0
        if not status.troubles:
            lines.append(f"what to do: {_remedy(status, target)}")
        lines.append(f"exit code {code}: {title_of(code)}; `orch logs {target}` shows what the workers printed")
    if status.finished_before:
        finished = _FINISHED_BEFORE.format(_FURTHER if status.has_length else "")
        lines.append(_COMMAND_FINISHED_BEFORE if status.command else finished)
    return lines


def _remedy(status: JobStatus, target: str) -> str:
    if status.remedy:
        return status.remedy
    own = of_cause(target, status.cause) if status.cause is not None else ""
    return own or general_remedy(status.code or 0, command=status.command)


def _metrics(status: JobStatus, *, brief: bool) -> list[str]:
    """A line for all of them while they change; in the end one each: those of held-out data where there is any, else what
    training showed last."""
    if status.state != "succeeded":
        line = "  ".join(f"{name} {value:.4f}" for name, value in status.metrics.items())
        return [line] if line and not brief else []
    held_out = {name: value for name, value in status.metrics.items() if name.startswith("val_")}
    of = "test" if held_out else "train"
    return [f"{of} {name.removeprefix('val_')} {value:.4f}" for name, value in (held_out or status.metrics).items()]


def _on_the_way(status: JobStatus, target: str, *, brief: bool) -> list[str]:
    """What went wrong on the way, where something did, and what it cost."""
    lines = broken_off_lines(status.broken_off)
    if status.history:
        lines.append("restarts of this launch:")
        lines += [f"  {line}" for line in history_lines(status.history, status.restarts, target)]
    lines += save_lines(status.save_troubles)
    if status.unread:
        lines.append(f"the run directory cannot be read: {status.unread}")
    elif status.eventful or (status.goodput is not None and not brief):
        lines.append(for_status(status.goodput, status.steps_lost, target))
    return lines


def _workers(status: JobStatus) -> list[str]:
    if not status.workers:
        return []
    rows: list[tuple[str, ...]] = [("worker", "state", "step", "steps/s", "attempt", "restarts", "node", "pod", "")]
    for row in rows_of(status.workers, _MOST_ROWS):
        rate = f"{row.rate:.1f}" if row.rate else ""
        # The last event is of use where the worker itself has nothing to say.
        more = row.reason or ("" if row.step else row.last_event[:_EVENT_CHARS])
        counts = str(row.attempt), str(row.restarts)
        rows.append((str(row.index), row.state, str(row.step), rate, *counts, row.node, row.pod, more))
    if not any(row.pod for row in status.workers):  # here: all on one machine
        rows = [row[:-3] for row in rows]
    lines = columns(rows, "  ")
    if len(status.workers) > _MOST_ROWS:
        lines.append(f"  ... and {len(status.workers) - _MOST_ROWS} more; -o json has them all")
    return lines


def rows_of(workers: Sequence[WorkerStatus], most: int) -> list[WorkerStatus]:
    """So many workers, in order; where that is not all, those that do not simply train come first."""
    chosen = sorted(workers, key=lambda row: (row.state in _CALM, row.index))[:most]
    return sorted(chosen, key=lambda row: row.index)
