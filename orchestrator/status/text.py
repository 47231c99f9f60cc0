"""A status as lines of text: what the job is, why, what to do next, and a line for each worker. Pure."""

from collections.abc import Sequence

from orchestrator.runs.goodput import for_status, history_lines
from orchestrator.status.model import JobStatus, WorkerStatus
from orchestrator.text import columns, progress
from trainer.exit_codes import ExitCode

_MOST_ROWS = 32
_EVENT_CHARS = 60
_CALM = frozenset({"train", "running", "succeeded"})


def status_lines(found: JobStatus) -> list[str]:
    """All of it, for a person."""
    lines = [f"{found.name}: {found.state}" + (f" (code {found.code})" if found.code else "")]
    if found.reason:
        lines.append(f"  {found.reason}")
    for trouble in found.troubles:
        if trouble.text != found.reason:
            lines.append(f"  {trouble.text}")
        lines.append(f"  what to do: {trouble.remedy}")
    lines += [f"    {line}" for line in found.traceback.rstrip().splitlines()[-12:]]
    if found.state == "failed" and not found.troubles:
        lines.append(f"  what to do: {_remedy(found)}")
    how_far = progress(found.step, found.total_steps, found.rate)
    lines.append(f"  {how_far}, attempt {found.attempts}, restarts {found.restarts}")
    if found.metrics:
        lines.append("  " + "  ".join(f"{name} {value:.4f}" for name, value in found.metrics.items()))
    if found.weights_sha256:
        lines.append(f"  weights_sha256 {found.weights_sha256}")
    if found.load:
        lines.append(f"  to load the model: {found.load}")
    if found.history:
        lines.append("  restarts of this launch:")
        lines += [f"    {line}" for line in history_lines(found.history, found.restarts, found.name)]
    if found.goodput is not None:
        lines.append(f"  {for_status(found.goodput, found.steps_lost, found.name)}")
    lines.append(f"  run directory {found.run_directory}")
    lines += [f"  {note}" for note in found.notes]
    return lines + _workers(found)


def summary(found: JobStatus) -> str:
    """One line: what changes as a job goes on, but for its step."""
    again = f" (restarts {found.restarts})" if found.restarts else ""
    return f"{found.name}: {found.state}{again}" + (f": {found.reason}" if found.reason else "")


def _workers(found: JobStatus) -> list[str]:
    if not found.workers:
        return []
    rows = [("worker", "state", "step", "steps/s", "attempt", "restarts", "node", "pod", "")]
    for row in rows_of(found.workers, _MOST_ROWS):
        rate = f"{row.rate:.1f}" if row.rate else ""
        # The last event is of use where the worker itself has nothing to say.
        more = row.reason or ("" if row.step else row.last_event[:_EVENT_CHARS])
        counts = str(row.attempt), str(row.restarts)
        rows.append((str(row.index), row.state, str(row.step), rate, *counts, row.node, row.pod, more))
    lines = columns(rows, "  ")
    if len(found.workers) > _MOST_ROWS:
        lines.append(f"  ... and {len(found.workers) - _MOST_ROWS} more; -o json has them all")
    return lines


def rows_of(workers: Sequence[WorkerStatus], most: int) -> list[WorkerStatus]:
    """So many workers, in order; where that is not all, those that do not simply train come first."""
    chosen = sorted(workers, key=lambda row: (row.state in _CALM, row.index))[:most]
    return sorted(chosen, key=lambda row: row.index)


def _remedy(found: JobStatus) -> str:
    if found.remedy:
        return found.remedy
    again = f"orch delete {found.name}, then submit again: it goes on from the last checkpoint"
    remedies: dict[int, str] = {
        ExitCode.TASK_ERROR: f"correct the task, build its image anew, {again}",
        ExitCode.SAVE_REFUSED: f"see to it that the run directory can be written, {again}",
        ExitCode.CONFIGURATION: f"correct the job file or the task, {again}",
    }
    return remedies.get(found.code or 0, f"orch logs {found.name} shows what the workers printed; {again}")
