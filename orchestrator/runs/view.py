"""A run directory as a person sees it: what became of the job. Local paths and gs:// alike. What was printed is in logs/."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.bucket import is_bucket
from orchestrator.runs import goodput
from orchestrator.runs.lock import holder, read_live
from orchestrator.text import columns, first_line, progress
from trainer.agent.last_words import SAVE_REMEDY, general_remedy
from trainer.agent.protocol import AgentReport, JobState
from trainer.errors import ConfigError, ObjectNotFound, StoreError
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, read_records
from trainer.rundir.commits import list_commits
from trainer.rundir.history import Restart, broken_off, restarts_of
from trainer.rundir.lineage import line
from trainer.rundir.signs import Sign, TooMany, last_figures, read_signs, save_error, told_step
from trainer.rundir.store import Store, open_store

SILENT_S = 15.0
"""Longer than that, a running attempt's agent leaves no part of the run directory unwritten."""
STATUS_STORE_S = 15.0
"""So long a status waits for one answer of a bucket."""
BESIDE_COORDINATOR_S = 5.0
"""The same where the coordinator has told how the job is doing."""


@dataclass(frozen=True)
class RunView:
    """The records and the commits that count."""

    store: Store
    records: list[AttemptRecord | EndRecord]
    line: list[CommitRef]
    """The commits of the line, newest first."""
    name: str = ""

    @property
    def directory(self) -> str:
        """The run directory: an absolute path, or gs://bucket/prefix."""
        return self.store.url

    @property
    def in_bucket(self) -> bool:
        """Whether other machines may run it, of whom this one knows nothing."""
        return is_bucket(self.directory)

    @property
    def end(self) -> EndRecord | None:
        """The end record, when it is the newest."""
        newest = self.records[-1] if self.records else None
        return newest if isinstance(newest, EndRecord) else None

    @property
    def attempt(self) -> AttemptRecord | None:
        """The newest attempt."""
        return next((record for record in reversed(self.records) if isinstance(record, AttemptRecord)), None)

    @property
    def attempts(self) -> int:
        """Number of the newest attempt."""
        return self.attempt.number if self.attempt else 0

    @property
    def step(self) -> int:
        """The step a next attempt would start from."""
        if self.end is not None and self.end.state == "succeeded":
            return self.end.step
        return self.line[0].step if self.line else 0


def read_run(directory: str, *, timeout_s: float = 60.0, on_trouble: Callable[[str], None] | None = None) -> RunView:
    """Read a run directory. `timeout_s` and `on_trouble` are as for open_store.

    Raises:
        StoreError: it cannot be read.
    """
    store = open_store(directory, timeout_s=timeout_s, on_trouble=on_trouble)
    records = read_records(store)
    return RunView(store, records, line(records, list_commits(store)), name=_name(store))


def _name(store: Store) -> str:
    try:
        return str(json.loads(store.get("job.json"))["name"])
    except (ObjectNotFound, ValueError, KeyError):
        return store.url.rstrip("/").rpartition("/")[2]


def no_run(directory: str) -> ConfigError:
    """The error for a run directory in which nothing ever ran."""
    return ConfigError(
        f"{directory} holds no run", remedy="Name a run directory, such as runs/digits or gs://bucket/prefix."
    )


def status(directory: str) -> dict[str, Any]:
    """The fields of `orch status -o json` for a run directory. While it cannot be read, those that its coordinator tells,
    where an `orch run` of this machine holds it; `unread` says why.

    Raises:
        ConfigError: it holds no run. StoreError: it cannot be read, and nobody else can be asked.
    """
    in_bucket = is_bucket(directory)
    url = f"gs://{directory[5:].strip('/')}" if in_bucket else open_store(directory).url
    holding, live = holder(url), read_live(url)
    try:
        timeout_s = STATUS_STORE_S if live is None else BESIDE_COORDINATOR_S
        view = read_run(url, timeout_s=timeout_s, on_trouble=lambda _: None)
    except StoreError as error:
        if live is None:
            raise
        return _as_told(live, holding, url, first_line(error.message))
    if not view.records:
        raise no_run(directory)
    attempt, end = view.attempt, view.end
    own = [
        record
        for record in view.records
        if isinstance(record, AttemptRecord) and attempt is not None and record.launch.id == attempt.launch.id
    ]
    signs, unread = _signs(view)
    running = holding or (_seen_elsewhere(view, signs or {}) if end is None else "")
    facts: dict[str, Any] = {
        "name": view.name,
        "state": end.state if end else ("running" if running else "stopped"),
        "code": end.code if end else None,
        "reason": end.reason if end else "",
        "step": max(view.step, end.step if end else 0),
        "attempts": view.attempts,
        "restarts": max(len(own) - 1, 0),
        "run_directory": view.directory,
        "metrics": end.metrics if end else {},
        "weights_sha256": end.weights_sha256 if end else None,
        "export": end.export if end else None,
        "load": end.load if end else "",
        "traceback": end.traceback if end else "",
        "remedy": _remedy(end),
        "total_steps": None,
        "rate": 0.0,
        "workers": [],
        "unread": unread,
    }
    newest = (signs or {}).get(view.attempts, [])
    history = history_of(view, signs)
    earlier = broken_off(view.records, signs) if signs is not None else []
    facts |= {
        "history": [restart.model_dump(mode="json", exclude={"stacks"}) for restart in history],
        "broken_off": [launch.model_dump(mode="json") for launch in earlier],
        "goodput": None,
        "steps_lost": None,
        "save_error": save_error(newest) if end is None else "",
        "save_troubles": _save_troubles(signs or {}, {record.number for record in own}),
    }
    if end is None:
        at = f"checkpoint at step {view.step}" if view.step else "no checkpoint yet"
        facts["reason"] = f"{running}; {at}" if running else f"stopped without an end ({at}); {_again(view)}"
        facts |= last_figures(newest) if running else {}
        if live is not None:
            # The coordinator's own words: a run directory that takes nothing any more cannot hold them.
            facts |= {"step": max(facts["step"], live.step), "metrics": live.metrics or facts["metrics"]}
            facts |= _figures(live)
        if running:
            limit_s = goodput.BUCKET_SILENT_S if view.in_bucket else SILENT_S
            facts["save_error"] = facts["save_error"] or _unwritten(newest, limit_s)
    if signs is not None:
        try:
            ledger = goodput.read_ledger(view.store, view.records, running=bool(running), signs=signs)
        except StoreError as error:
            ledger, facts["unread"] = None, first_line(error.message)
        if ledger is not None:
            facts |= {"goodput": ledger.goodput, "steps_lost": ledger.steps_lost}
    return facts


def _as_told(live: JobState, holding: str, url: str, unread: str) -> dict[str, Any]:
    """The fields of a status that the coordinator can tell alone."""
    end = live.end
    words = [holding, saved_in_words(live), live.reason]
    return {
        "name": live.name,
        "state": end.state if end else "running",
        "code": end.code if end else None,
        "reason": end.reason if end else "; ".join(word for word in words if word),
        "step": end.step if end else live.step,
        "attempts": live.attempt,
        "restarts": live.restarts,
        "run_directory": url,
        "metrics": end.metrics if end else live.metrics,
        "weights_sha256": end.weights_sha256 if end else None,
        "export": end.export if end else None,
        "load": end.load if end else "",
        "traceback": end.traceback if end else "",
        "remedy": _remedy(end),
        "history": [restart.model_dump(mode="json", exclude={"stacks"}) for restart in live.history],
        "broken_off": [],
        "goodput": None,
        "steps_lost": None,
        "save_troubles": [],
        "unread": unread,
    } | _figures(live)


def _remedy(end: EndRecord | None) -> str:
    """What to do about a job that failed."""
    return general_remedy(end.code, out_of_memory=end.out_of_memory) if end is not None and end.code else ""


def _figures(live: JobState) -> dict[str, Any]:
    """What only the coordinator of a running job knows."""
    return {
        "total_steps": live.total_steps,
        "rate": round(live.rate, 2),
        "workers": [_worker(report) for report in live.workers],
        "save_error": next((report.save_error for report in live.workers if report.save_error), ""),
    }


def saved_in_words(live: JobState | None) -> str:
    """How far a job is saved, as far as its coordinator told: a later checkpoint may be there."""
    told = [report.last_commit.step for report in (live.workers if live else []) if report.last_commit is not None]
    return f"checkpoint at step {max(told)} or later" if told else "how far it is saved is unknown"


def _seen_elsewhere(view: RunView, signs: dict[int, list[Sign]]) -> str:
    """What tells of a job that somebody else runs: nobody can be asked, but it writes to its bucket."""
    lately = time.time() - goodput.newest_time(signs) < goodput.BUCKET_SILENT_S
    return "its workers wrote lately: it runs elsewhere, or stopped a moment ago" if view.in_bucket and lately else ""


def _again(view: RunView) -> str:
    unless = ", unless it waits on a cluster (orch list)" if view.in_bucket else ""
    return f"run it again to go on{unless}"


def _worker(report: AgentReport) -> dict[str, Any]:
    """A line of the table of workers."""
    return {
        "index": report.index,
        "state": str(report.phase or "running") if report.state == "running" else "waiting",
        "step": report.step,
        "rate": round(report.rate, 2),
        "attempt": report.attempt,
        "memory_bytes": report.memory_bytes,
    }


def _save_troubles(signs: dict[int, list[Sign]], attempts: set[int]) -> list[dict[str, Any]]:
    """What went wrong with saves in these attempts, oldest first: saves given up, and troubles that another try ended."""
    return [
        {"time": sign.time, "step": sign.step, "error": sign.error, "failed": sign.type == "save_failed"}
        for number in sorted(attempts)
        for sign in signs.get(number, [])
        if sign.type in ("save_failed", "save_trouble")
    ]


def history_of(view: RunView, signs: dict[int, list[Sign]] | None = None) -> list[Restart]:
    """The restarts of the newest launch."""
    told = {number: told_step(of_attempt) for number, of_attempt in (signs or {}).items()}
    return restarts_of(view.records, view.attempt.launch.id, told=told) if view.attempt else []


def restarts_from(facts: list[dict[str, Any]]) -> list[Restart]:
    """`history` and `broken_off` of a status."""
    return [Restart.model_validate(restart) for restart in facts]


def _signs(view: RunView) -> tuple[dict[int, list[Sign]] | None, str]:
    """What the chief's agents wrote, or None where that is too much to be read for a status, or cannot be read; and why."""
    most = goodput.STATUS_SEGMENTS if view.in_bucket else None
    try:
        return read_signs(view.store, view.records, segments_max=most), ""
    except TooMany:
        return None, ""
    except StoreError as error:
        return None, first_line(error.message)


def _unwritten(newest: list[Sign], limit_s: float) -> str:
    """Trouble that cannot be told by the one who has it: the run directory takes nothing any more."""
    if not newest or newest[-1].type == "ended":
        return ""
    silent_s = time.time() - newest[-1].time
    return f"nothing was written to the run directory for {silent_s:.0f} s" if silent_s > limit_s else ""


def describe(facts: dict[str, Any], target: str) -> list[str]:
    """The same for a person. `target` is what they called it."""
    lines = [f"{facts['name']}: {facts['state']}" + (f" (code {facts['code']})" if facts["code"] else "")]
    if facts["reason"]:
        lines.append(f"  {facts['reason']}")
    if facts["traceback"]:
        lines += [f"    {text}" for text in facts["traceback"].rstrip().splitlines()[-12:]]
    if facts["remedy"]:
        lines.append(f"  what to do: {facts['remedy']}")
    how_far = progress(facts["step"], facts["total_steps"], facts["rate"])
    lines.append(f"  {how_far}, attempt {facts['attempts']}, restarts {facts['restarts']}")
    if facts["metrics"]:
        lines.append("  " + "  ".join(f"{name} {value:.4f}" for name, value in facts["metrics"].items()))
    if facts["weights_sha256"]:
        lines.append(f"  weights_sha256 {facts['weights_sha256']}")
    if facts["load"]:
        lines.append(f"  to load the model: {facts['load']}")
    if facts["save_error"]:
        lines += [f"  saves fail: {first_line(facts['save_error'])}", f"  what to do: {SAVE_REMEDY}"]
    lines += [f"  {text}" for text in goodput.broken_off_lines(restarts_from(facts["broken_off"]))]
    history = restarts_from(facts["history"])
    if history:
        lines.append("  restarts of this launch:")
        lines += [f"    {text}" for text in goodput.history_lines(history, facts["restarts"], target)]
    lines += [f"  {text}" for text in goodput.save_lines(facts["save_troubles"])]
    if facts["unread"]:
        lines.append(f"  the run directory cannot be read: {facts['unread']}")
    else:
        lines.append(f"  {goodput.for_status(facts['goodput'], facts['steps_lost'], target)}")
    lines.append(f"  run directory {facts['run_directory']}")
    if facts["workers"]:
        shown = ("index", "state", "step", "rate", "attempt")
        rows = [[str(worker[column] or 0) for column in shown] for worker in facts["workers"]]
        lines += columns([("worker", "state", "step", "steps/s", "attempt"), *rows], "  ")
    return lines
