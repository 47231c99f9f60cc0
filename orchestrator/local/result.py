"""What became of an `orch run`: from its run directory, and from how its agents left. Pure."""

import signal
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.runs.view import STOPPED_COMMAND, RunView, saved_in_words
from orchestrator.status.model import JobStatus
from trainer.config import TrainConfig
from trainer.exit_codes import FINAL_CODES, ExitCode, title_of
from trainer.rundir.attempts import AttemptRecord, EndRecord
from trainer.wire.coordinator import JobState
from trainer.wire.termination import LastWords


def result_of(
    view: RunView,
    config: TrainConfig,
    *,
    launch: str,
    stop_signal: int | None,
    gave_up: str,
    codes: list[int | None],
    last: JobState | None,
    unread: str = "",
    words: Sequence[LastWords] = (),
) -> JobStatus:
    """What became of the launch, from the run directory and from how its agents left. `last` is what the coordinator last
    told, `words` what the agents did when they left; `unread` says why the run directory, and so `view`, tells nothing."""
    own = [record for record in view.records if isinstance(record, AttemptRecord) and record.launch.id == launch]
    told = JobStatus(
        name=config.name,
        run_directory=config.run_directory,
        attempts=view.attempts or (last.attempt if last else 0),
        restarts=last.restarts if unread and last else max(len(own) - 1, 0),
        command=view.command if view.attempt is not None else config.train.command is not None,
        has_length=config.train.task is not None,
    )
    done = all(code == ExitCode.DONE for code in codes)
    end = _end_of(launch, [*view.records, *([last.end] if last and last.end else [])], done=done)
    if end is not None and not gave_up:
        return replace(
            told.ended_by(end),
            code=int(ExitCode.TASK_ERROR) if end.code == ExitCode.SCRIPT_FAILED else end.code,
            traceback=end.traceback or _traceback_in(last),
            finished_before=end.launch.id != launch,
        )
    step = last.step if unread and last else view.step
    told = replace(told, step=step, metrics=last.metrics if last else {})
    if done:
        return replace(told, state="succeeded", code=int(ExitCode.DONE), reason=unread)
    told = replace(told, traceback=_traceback_in(last))
    if stop_signal is not None:
        code = 130 if stop_signal == signal.SIGINT else 128 + stop_signal
        saved = f"checkpoint at step {view.step}" if view.step else "no checkpoint yet"
        if unread:
            saved = f"{saved_in_words(last)}; {unread}"
        reason = STOPPED_COMMAND if told.command else f"stopped ({saved}); run again to go on"
        return replace(told, state="stopped", code=code, reason=reason)
    if gave_up:
        return replace(told, state="failed", code=int(ExitCode.GIVEN_UP), reason=gave_up)
    return _left_without_end(told, codes, last=last, unread=unread, words=words)


def _left_without_end(
    told: JobStatus, codes: Sequence[int | None], *, last: JobState | None, unread: str, words: Sequence[LastWords]
) -> JobStatus:
    """A failure that no record tells: by the agents' exit codes and last words."""
    code = int(next((code for code in codes if code not in (None, ExitCode.DONE)), ExitCode.GIVEN_UP) or 0)
    said = next((said for said in words if said.code == code and code in FINAL_CODES), None)
    reason = (said.reason if said else "") or (last.reason if last and code in FINAL_CODES else "")
    reason = reason or f"the agents left: {title_of(code)}"
    if unread:
        reason = f"{reason} ({unread})"
    remedy = said.own_remedy(code) if said is not None else ""
    return replace(told, state="failed", code=code, reason=reason, remedy=remedy)


def _traceback_in(last: JobState | None) -> str:
    """What the workers themselves told of their failures, where no record could."""
    exits = [worker.last_exit for worker in (last.workers if last else []) if worker.last_exit is not None]
    final = [report.traceback for report in exits if report.code in FINAL_CODES and report.traceback]
    return final[0] if final else ""


def _end_of(launch: str, records: list[AttemptRecord | EndRecord], *, done: bool) -> EndRecord | None:
    """The end of this launch, which stands whatever was asked for meanwhile. That of another launch is its end too only where
    all agents are `done`: what they were to do was done before."""
    ends = [record for record in records if isinstance(record, EndRecord)]
    own = next((end for end in ends if end.launch.id == launch), None)
    return own or (ends[-1] if ends and done else None)
