"""Reads what the ledger needs from a run directory, and puts a ledger and a history of restarts into words and JSON."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.runs.view import RunView
from orchestrator.text import first_line, short_duration
from trainer.agent.output import SEGMENT_S
from trainer.exit_codes import ExitCode
from trainer.rundir.history import Restart, lost_in_words
from trainer.rundir.ledger import Ledger, Row, account
from trainer.rundir.metrics import ALIVE_S, Sign, read_signs

HISTORY_LINES = 10
STATUS_SEGMENTS = 256
"""`orch status` reads no more of a bucket than that: some hours of training. `orch goodput` reads all."""
_LOCAL_FLUSH_S = 1.0
BUCKET_SILENT_S = 2 * SEGMENT_S
"""Whoever runs a job writes to its bucket more often than that."""
_ONLY_WHERE_THERE_IS_SOME = (Row.SCRIPT, Row.OUTSIDE, Row.UNKNOWN)


def read_ledger(view: RunView, *, running: bool, signs: Mapping[int, Sequence[Sign]] | None = None) -> Ledger | None:
    """The ledger of a run directory; None where nothing has run in it yet.

    Args:
        running: somebody is known to run it at this moment.
        signs: what its workers wrote, where that was read before.

    Raises:
        StoreError: the store does not answer.
    """
    if signs is None:
        signs = read_signs(view.store, view.records)
    ended = view.end is not None
    if view.in_bucket and not ended:
        # Nobody can be asked: who wrote lately runs still.
        running = running or time.time() - newest_time(signs) < BUCKET_SILENT_S
    return account(
        view.records,
        signs,
        now_s=time.time() if running and not ended else None,
        committed=None if running else (view.line[0].step if view.line else 0),
        unseen_s=ALIVE_S + (SEGMENT_S if view.in_bucket else _LOCAL_FLUSH_S),
    )


def newest_time(signs: Mapping[int, Sequence[Sign]]) -> float:
    """When the newest of all signs was made, in seconds since the epoch; 0 where there is none."""
    return max((of_attempt[-1].time for of_attempt in signs.values() if of_attempt), default=0.0)


def to_json(ledger: Ledger) -> dict[str, Any]:
    """The object of `orch goodput -o json`. All times are in seconds; the rows of `seconds` but `stopped` sum to `total_s`."""
    return {
        "goodput": ledger.goodput,
        "total_s": ledger.total_s,
        "seconds": {row.value: ledger.seconds(row) for row in Row},
        "steps_kept": ledger.steps_kept,
        "steps_lost": ledger.steps_lost,
        "attempts": ledger.attempts,
        "restarts": ledger.restarts,
        "saves": ledger.saves,
        "longest_stall_s": ledger.longest_stall_s,
        "began": ledger.began.isoformat(),
        "first_attempt": ledger.first_attempt,
    }


def table(ledger: Ledger) -> list[str]:
    """The table of `orch goodput`: row, seconds, share."""
    rows = [
        row
        for row in Row
        if row is not Row.STOPPED and (ledger.microseconds[row] or row not in _ONLY_WHERE_THERE_IS_SOME)
    ]
    width = max(len(row.value) for row in Row)
    total = ledger.total_s

    def text(name: str, seconds: float, share: str, meaning: str = "") -> str:
        return f"  {name:<{width}}  {seconds:>9.2f}  {share:>7}  {meaning}".rstrip()

    lines = [f"  {'':<{width}}  {'seconds':>9}  {'share':>7}"]
    for row in rows:
        lines.append(text(row.value, ledger.seconds(row), _share(ledger.seconds(row), total), row.meaning))
    lines.append(text("total", total, _share(total, total)))
    if ledger.microseconds[Row.STOPPED]:
        lines.append(text(Row.STOPPED.value, ledger.seconds(Row.STOPPED), "", Row.STOPPED.meaning))
    lines.append(
        f"  steps: {ledger.steps_kept} kept, {ledger.steps_lost} lost; attempts {ledger.attempts}, "
        f"restarts {ledger.restarts}"
    )
    if ledger.saves:
        lines.append(f"  saves: {ledger.saves}, the longest stall {ledger.longest_stall_s * 1000:.1f} ms")
    if ledger.first_attempt > 1:
        lines.append(f"  since the fresh start with attempt {ledger.first_attempt}; what lay before it does not count")
    return lines


def headline(ledger: Ledger) -> str:
    """`goodput 71.3 %: 12.4 s of steps kept in 17.4 s`."""
    if ledger.goodput is None:
        why = (
            "a `command:` job tells nothing of its steps" if ledger.microseconds[Row.SCRIPT] else "no time went by yet"
        )
        return f"goodput unknown: {why}"
    kept, total = ledger.seconds(Row.KEPT), ledger.total_s
    return f"goodput {100 * ledger.goodput:.1f} %: {short_duration(kept)} of steps kept in {short_duration(total)}"


def for_status(share: float | None, steps_lost: int | None, target: str) -> str:
    """The line of `orch status`."""
    known = f"{100 * share:.1f} %" if share is not None else "unknown"
    lost = f", {steps_lost} step{'s' if steps_lost != 1 else ''} lost" if steps_lost else ""
    return f"goodput {known}{lost} (orch goodput {target} shows where the time went)"


def history_lines(history: Sequence[Restart], restarts: int, target: str) -> list[str]:
    """A line for each restart: when, who, why, what was lost, and where to look. Newest last, ten at most, and a count of
    the rest. `target`: what `orch logs` calls the job."""
    shown = list(history)[-HISTORY_LINES:]
    earlier = max(restarts, len(history)) - len(shown)
    days = {item.at.astimezone(UTC).date() for item in shown if item.at is not None}
    form = "%H:%M:%S UTC" if len(days) <= 1 else "%Y-%m-%d %H:%M:%S UTC"
    lines = [f"... and {earlier} earlier restart{'s' if earlier > 1 else ''}"] if shown and earlier else []
    return lines + [
        f"{_clock(item.at, form)} attempt {item.attempt}: {item.reason}; {lost_in_words(item)}{_where_to_look(item, target)}"
        for item in shown
    ]


def _where_to_look(restart: Restart, target: str) -> str:
    # Of records that do not tell whether there are stacks, most have some.
    if restart.code == ExitCode.HANG and restart.worker is not None and restart.stacks is not False:
        return f"; its stacks: orch logs {target} --worker {restart.worker}"
    return ""


def broken_off_lines(launches: Sequence[Restart]) -> list[str]:
    """`an earlier launch ended without a word: attempt 1, last heard of at 2026-01-01 12:00:07 UTC, step 450; ...`"""
    if not launches:
        return []
    last = launches[-1]
    count = "an earlier launch" if len(launches) == 1 else f"{len(launches)} earlier launches"
    which = "" if len(launches) == 1 else " the last of them in"
    at = _clock(last.at, "%Y-%m-%d %H:%M:%S UTC") + (f", step {last.step}" if last.step is not None else "")
    went_on = lost_in_words(last, "the next one went on")
    return [f"{count} {last.reason}:{which} attempt {last.attempt}, last heard of at {at}; {went_on}"]


@dataclass(frozen=True)
class SaveProblem:
    """Something that went wrong with a save: it was given up, or another try ended the trouble."""

    time: float
    """Seconds since 1970, by the agent's clock."""
    step: int
    error: str
    failed: bool
    """Whether the save was given up."""


def save_troubles(signs: Mapping[int, Sequence[Sign]], attempts: Collection[int]) -> list[SaveProblem]:
    """Those of some attempts, oldest first."""
    return [
        SaveProblem(sign.time, sign.step, sign.error, sign.type == "save_failed")
        for number in sorted(attempts)
        for sign in signs.get(number, [])
        if sign.type in ("save_failed", "save_trouble")
    ]


def save_lines(troubles: Sequence[SaveProblem]) -> list[str]:
    """`saves met trouble 3 times, 1 was given up; the last time at 12:00:07 UTC: No space left on device`."""
    if not troubles:
        return []
    failed = sum(trouble.failed for trouble in troubles)
    times = "once" if len(troubles) == 1 else f"{len(troubles)} times"
    given_up = f", {failed} {'was' if failed == 1 else 'were'} given up" if failed else ""
    last = troubles[-1]
    at = _clock(datetime.fromtimestamp(last.time, UTC), "%H:%M:%S UTC")
    reason = first_line(last.error)
    return [f"saves met trouble {times}{given_up}; the last time at {at}, step {last.step}: {reason}"]


def _clock(at: datetime | None, form: str) -> str:
    return at.astimezone(UTC).strftime(form) if at is not None else "at an unknown time"


def _share(seconds: float, total: float) -> str:
    return f"{100 * seconds / total:.1f} %" if total else ""
