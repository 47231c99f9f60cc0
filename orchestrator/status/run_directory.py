"""The status of a run directory, local paths and gs:// alike: from its records and from what its workers wrote; while an
`orch run` of this machine holds it, from what its coordinator tells.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.diagnose.trouble import Trouble
from orchestrator.runs import goodput
from orchestrator.runs.lock import holder, read_live
from orchestrator.runs.past import Past, Signs, newest_launch, past_of
from orchestrator.runs.view import STOPPED_COMMAND, STORE_S, RunView, no_run, read_run, saved_in_words
from orchestrator.status.model import JobStatus, Moment, WorkerStatus
from orchestrator.text import first_line
from trainer.errors import ConfigError, StoreError
from trainer.exit_codes import ExitCode
from trainer.rundir.bucket import is_bucket
from trainer.rundir.history import restarts_of
from trainer.rundir.metrics import Sign, TooMany, read_signs, save_error, told_metrics, told_step
from trainer.rundir.open import open_store
from trainer.wire.coordinator import AgentReport, JobState
from trainer.wire.termination import SAVE_REMEDY

UNWRITTEN_S = 15.0
"""Longer than that, a running attempt's agent leaves no part of a local run directory unwritten."""
STORE_BESIDE_COORDINATOR_S = 5.0
"""The same where the coordinator has told how the job is doing."""
LOOK_S = 1.0
LOOK_AT_BUCKET_S = 10.0
"""Each look lists a bucket, which costs time and money."""


def status_of_run(directory: str) -> JobStatus:
    """The status of a run directory. While it cannot be read, what its coordinator tells, where an `orch run` of this machine
    holds it; `unread` says why.

    Raises:
        ConfigError: it holds no run. StoreError: it cannot be read, and nobody else can be asked.
    """
    url = f"gs://{directory[5:].strip('/')}" if is_bucket(directory) else open_store(directory).url
    holding, live = holder(url), read_live(url)
    try:
        timeout_s = STORE_S if live is None else STORE_BESIDE_COORDINATOR_S
        view = read_run(url, timeout_s=timeout_s, on_trouble=lambda _: None)
    except StoreError as error:
        if live is None:
            raise
        return _as_told(live, holding, url, unread=first_line(error.message))
    if not view.records:
        raise no_run(directory)
    signs, unread = _signs(view)
    told = _of_view(view, signs or {}, holding, live)
    return _with_past(replace(told, unread=unread), view, signs)


def follow_run(directory: str) -> Iterator[Moment]:
    """The status again and again, until nobody runs there any more; the last one is the end. While the run directory cannot be
    read the last status comes again, with that said.

    Raises:
        ConfigError: it holds no run. StoreError: it cannot be read at first.
    """
    last: JobStatus | None = None
    while True:
        away = ""
        try:
            last = status_of_run(directory)
        except StoreError as error:
            if last is None:
                raise
            last = replace(last, unread=first_line(error.message))
            away = f"the run directory cannot be read: {last.unread}"
        yield Moment(last, away=away)
        if last.state != "running":
            return
        time.sleep(LOOK_AT_BUCKET_S if is_bucket(last.run_directory) else LOOK_S)


def with_its_past(ended: JobStatus) -> JobStatus:
    """A status of somebody who saw the job end, with what its run directory tells of the way there. Where that cannot be read
    just now, why: the end stands all the same, and where that is known already nobody waits for the store again."""
    if ended.unread:
        return ended
    try:
        told = status_of_run(ended.run_directory)
    except StoreError as error:
        return replace(ended, unread=first_line(error.message))
    except ConfigError:  # it ended before its first record
        return ended
    return replace(
        ended,
        history=told.history,
        broken_off=told.broken_off,
        goodput=told.goodput,
        steps_lost=told.steps_lost,
        save_error=told.save_error,
        save_troubles=told.save_troubles,
        unread=told.unread,
    )


def _of_view(view: RunView, signs: Signs, holding: str, live: JobState | None) -> JobStatus:
    told = JobStatus(
        name=view.name,
        attempts=view.attempts,
        restarts=max(len(newest_launch(view)) - 1, 0),
        run_directory=view.directory,
        step=view.step,
        command=view.command,
    )
    if view.end is not None:
        return replace(told.ended_by(view.end), step=max(view.step, view.end.step))
    newest = signs.get(view.attempts, [])
    running = holding or _seen_elsewhere(view, signs)
    at = f"checkpoint at step {view.step}" if view.step else "no checkpoint yet"
    told = replace(told, save_error=save_error(newest))
    if not running:
        return _with_save_trouble(replace(told, state="stopped", reason=_stopped(view, newest, at)))
    told = replace(told, state="running", reason=running if view.command else f"{running}; {at}")
    if newest:
        told = replace(told, step=told_step(newest), metrics=told_metrics(newest))
    if live is not None:
        # The coordinator's own words: a run directory that takes nothing any more cannot hold them.
        told = _with_figures(replace(told, step=max(told.step, live.step), metrics=live.metrics or told.metrics), live)
    if not told.save_error:
        limit_s = goodput.BUCKET_SILENT_S if view.in_bucket else UNWRITTEN_S
        told = replace(told, save_error=_unwritten(newest, limit_s))
    return _with_save_trouble(told)


def _as_told(live: JobState, holding: str, url: str, *, unread: str) -> JobStatus:
    """What the coordinator can tell alone."""
    told = JobStatus(
        name=live.name,
        attempts=live.attempt,
        restarts=live.restarts,
        run_directory=url,
        history=live.history,
        unread=unread,
    )
    if live.end is not None:
        return told.ended_by(live.end)
    reason = "; ".join(words for words in (holding, saved_in_words(live), live.reason) if words)
    told = replace(told, state="running", reason=reason, step=live.step, metrics=live.metrics)
    return _with_save_trouble(_with_figures(told, live))


def _with_figures(told: JobStatus, live: JobState) -> JobStatus:
    """The same with what only the coordinator of a running job knows."""
    culprits = [restart.worker for restart in live.history]
    return replace(
        told,
        total_steps=live.total_steps,
        rate=round(live.rate, 2),
        workers=[_worker(report, restarts=culprits.count(report.index)) for report in live.workers],
        save_error=next((report.save_error for report in live.workers if report.save_error), ""),
    )


def _worker(report: AgentReport, *, restarts: int) -> WorkerStatus:
    return WorkerStatus(
        index=report.index,
        state=str(report.phase or "running") if report.state == "running" else "waiting",
        step=report.step,
        rate=round(report.rate, 2),
        attempt=report.attempt,
        restarts=restarts,
        memory_bytes=report.memory_bytes,
    )


def _with_save_trouble(status: JobStatus) -> JobStatus:
    if not status.save_error:
        return status
    return replace(status, troubles=[Trouble(f"saves fail: {first_line(status.save_error)}", SAVE_REMEDY)])


def _with_past(told: JobStatus, view: RunView, signs: Signs | None) -> JobStatus:
    """The same with restarts, with what became of saves and of earlier launches, and with the goodput; of what was not read,
    nothing."""
    try:
        past = past_of(view, signs, running=told.state == "running") if signs is not None else Past()
    except StoreError as error:
        past, told = Past(), replace(told, unread=first_line(error.message))
    launch = view.attempt.launch.id if view.attempt is not None else ""
    return replace(told, history=restarts_of(view.records, launch, told=past.told_steps)).with_past(past)


def _signs(view: RunView) -> tuple[dict[int, list[Sign]] | None, str]:
    """What the chief's agents wrote, or None where that is too much to be read for a status, or cannot be read; and why."""
    most = goodput.STATUS_SEGMENTS if view.in_bucket else None
    try:
        return read_signs(view.store, view.records, segments_max=most), ""
    except TooMany:
        return None, ""
    except StoreError as error:
        return None, first_line(error.message)


def _seen_elsewhere(view: RunView, signs: Signs) -> str:
    """What tells of a job that somebody else runs: nobody can be asked, but it writes to its bucket."""
    lately = time.time() - goodput.newest_time(signs) < goodput.BUCKET_SILENT_S
    return "its workers wrote lately: it runs elsewhere, or stopped a moment ago" if view.in_bucket and lately else ""


def _stopped(view: RunView, newest: Sequence[Sign], at: str) -> str:
    """`orch run` says the same of a run that it stopped."""
    in_order = any(sign.type == "ended" and sign.code == ExitCode.STOPPED for sign in newest)
    if view.command and in_order and not view.in_bucket:
        return STOPPED_COMMAND
    at = "orch saves nothing of a command" if view.command else at
    unless = ", unless it waits on a cluster (orch list)" if view.in_bucket else ""
    again = "run it from its start" if view.command else "go on"
    return f"stopped{'' if in_order else ' without an end'} ({at}); run again to {again}{unless}"


def _unwritten(newest: Sequence[Sign], limit_s: float) -> str:
    """Trouble that cannot be told by the one who has it: the run directory takes nothing any more."""
    if not newest or newest[-1].type == "ended":
        return ""
    silent_s = time.time() - newest[-1].time
    return f"nothing was written to the run directory for {silent_s:.0f} s" if silent_s > limit_s else ""
