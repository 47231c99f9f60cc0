"""The goodput ledger: where each second of a job went. Pure: records and signs in, microseconds by row out.

Within an attempt the chief's signs tell (metrics.py), between attempts the records do. Whatever the clocks say, time never
runs backwards here: a moment before the one at hand counts as that one. Signs may be missing at the end of an attempt,
when its agent was killed before it wrote them; what the next record knows of it stands in for them.

All is counted in whole microseconds, so that the rows sum to the total exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord
from trainer.rundir.lineage import steps_that_count
from trainer.rundir.metrics import Sign

Record = AttemptRecord | EndRecord


class Row(StrEnum):
    """What a second was spent on. In the order of the table."""

    START = "start"
    IMPORT = "import"
    RENDEZVOUS = "rendezvous"
    RESTORE = "restore"
    COMPILE = "compile"
    KEPT = "steps kept"
    LOST = "steps lost"
    EVALUATION = "evaluation"
    STALL = "checkpoint stall"
    FINISH = "last save, export"
    DOWN = "down"
    HANG = "hang"
    SCRIPT = "script"
    OUTSIDE = "outside of fit"
    UNKNOWN = "unknown"
    STOPPED = "stopped"

    @property
    def meaning(self) -> str:
        """For people: from when to when."""
        return _MEANINGS[self]


_MEANINGS = {
    Row.START: "record written -> the chief's process speaks",
    Row.IMPORT: "importing TensorFlow",
    Row.RENDEZVOUS: "the workers connect to each other",
    Row.RESTORE: "data, model, checkpoint",
    Row.COMPILE: "the first steps are compiled",
    Row.KEPT: "steps that the result rests on",
    Row.LOST: "steps that were done again, or begun and not finished",
    Row.EVALUATION: "evaluating",
    Row.STALL: "training stood still for the copy of a save",
    Row.FINISH: "the last checkpoint, and the trained model",
    Row.DOWN: "process ended -> the next record",
    Row.HANG: "silence, until a hung process was ended",
    Row.SCRIPT: "a `command:` job's script ran",
    Row.OUTSIDE: "a script's own lines, outside of its calls of fit",
    Row.UNKNOWN: "the agent died before it wrote what went on",
    Row.STOPPED: "nobody ran it: not part of the total",
}
OF_PHASE = {
    "": Row.START,
    "import": Row.IMPORT,
    "rendezvous": Row.RENDEZVOUS,
    "restore": Row.RESTORE,
    "compile": Row.COMPILE,
    "evaluate": Row.EVALUATION,
    "save": Row.STALL,
    "export": Row.FINISH,
    "command": Row.SCRIPT,
    "script": Row.OUTSIDE,
}
_TRAIN = "train"
WITHIN = ("data", "callback")
"""Phases within another one, whose time they are."""
_FINISHING = "finishing"
"""The phase `save` of the last save, which is waited for."""
_TELLING = frozenset({"phase", "block", "evaluated", "stalled", "ended"})
"""The types of signs at which one thing ends and another begins."""


@dataclass
class Ledger:
    """Where the time went, since the newest fresh start."""

    began: datetime
    """When the first record was written."""
    until_s: float
    """Seconds from `began` to the end of the job, to now, or to its last sign of life."""
    first_attempt: int
    attempts: int = 0
    restarts: int = 0
    """Attempts that followed another one of the same launch."""
    steps_kept: int = 0
    steps_lost: int = 0
    saves: int = 0
    longest_stall_s: float = 0.0
    microseconds: dict[Row, int] = field(default_factory=lambda: dict.fromkeys(Row, 0))

    @property
    def total_us(self) -> int:
        """All time in which somebody ran the job."""
        return sum(self.microseconds.values()) - self.microseconds[Row.STOPPED]

    @property
    def total_s(self) -> float:
        """The same in seconds."""
        return self.total_us / 1e6

    @property
    def goodput(self) -> float | None:
        """Seconds of steps kept / total; None where no time went by, or nothing is known of steps (a `command:` job)."""
        if not self.total_us or self.microseconds[Row.SCRIPT]:
            return None
        return self.microseconds[Row.KEPT] / self.total_us

    def seconds(self, row: Row) -> float:
        """The seconds of a row."""
        return self.microseconds[row] / 1e6


def account(
    records: Sequence[Record],
    signs: Mapping[int, Sequence[Sign]],
    *,
    now_s: float | None = None,
    committed: int | None = None,
    unseen_s: float = 1.0,
) -> Ledger | None:
    """The ledger of a job; None where it has no attempt.

    Args:
        records: all of the run directory, in order.
        signs: attempt -> what its chief's agent wrote, in order.
        now_s: the time of day (seconds since 1970) while somebody runs the job; None where nobody does.
        committed: the step that a next attempt would start from, where the job neither runs nor has succeeded: what was
            done after it will be done again.
        unseen_s: how much of its last signs an agent loses when it is killed: the age to which it keeps them unwritten.
    """
    records = _since_fresh_start(records)
    if not records:
        return None
    return _Accountant(records, signs, now_s, committed, unseen_s).ledger()


def _since_fresh_start(records: Sequence[Record]) -> list[Record]:
    attempts = [index for index, record in enumerate(records) if isinstance(record, AttemptRecord)]
    fresh = [index for index in attempts if getattr(records[index], "fresh", False)]
    return list(records[(fresh or attempts)[-1 if fresh else 0] :]) if attempts else []


class _Accountant:
    """Goes through the records once, with a hand that only moves forward."""

    def __init__(
        self,
        records: Sequence[Record],
        signs: Mapping[int, Sequence[Sign]],
        now_s: float | None,
        committed: int | None,
        unseen_s: float,
    ) -> None:
        self._records = records
        self._signs = signs
        self._zero_s = records[0].created.timestamp()
        self._now_us = None if now_s is None else self._us(now_s)
        self._unseen_us = round(unseen_s * 1e6)
        self._counting = steps_that_count(records)
        newest = max(record.number for record in records if isinstance(record, AttemptRecord))
        end = records[-1]
        succeeded = isinstance(end, EndRecord) and end.state == "succeeded"
        if committed is not None and now_s is None and not succeeded:
            self._counting[newest] = (self._counting[newest][0], committed)
        self._ledger = Ledger(records[0].created, 0.0, records[0].number)
        # The attempt at hand:
        self._hand = 0
        self._phase = ""
        self._step = 0
        self._until: int | None = 0
        self._steps_us = self._steps = 0

    def ledger(self) -> Ledger:
        """All attempts, one after the other."""
        followers: list[Record | None] = [*self._records[1:], None]
        for record, following in zip(self._records, followers, strict=True):
            if isinstance(record, AttemptRecord):
                self._attempt(record, following)
            elif following is not None:
                self._spend(Row.STOPPED, self._us(following.created.timestamp()))
        self._ledger.until_s = self._hand / 1e6
        return self._ledger

    def _us(self, time_s: float) -> int:
        return round((time_s - self._zero_s) * 1e6)

    def _spend(self, row: Row, until: int) -> int:
        """All from the hand to `until` goes to `row`; the microseconds that were."""
        span = max(until - self._hand, 0)
        self._ledger.microseconds[row] += span
        self._hand += span
        return span

    # --- one attempt

    def _attempt(self, record: AttemptRecord, following: Record | None) -> None:
        ledger = self._ledger
        ledger.attempts += 1
        ledger.restarts += bool(record.restarts)
        self._phase, self._steps_us, self._steps = "", 0, 0
        self._step = record.restore.step if record.restore else 0
        self._until = self._counting[record.number][1] if record.number in self._counting else -1
        signs = self._signs.get(record.number, [])
        stalls = [sign for sign in signs if sign.type == "stalled"]
        ledger.saves += len(stalls)
        ledger.longest_stall_s = max([ledger.longest_stall_s, *(sign.seconds for sign in stalls)])

        limit = self._limit(following, signs)
        ended = next((sign for sign in signs if sign.type == "ended"), None)
        hung = _hung(record.number, following, ended)
        for sign, time_us in self._telling(signs):
            moment = min(max(time_us, self._hand), limit)
            if sign is ended:
                self._last_stretch(
                    moment, hung=hung, known=self._last_step(record, following), stopped=_is_stop(sign.code)
                )
                break
            self._sign(sign, moment)
        last_sign = min(max([self._hand, *(self._us(sign.time) for sign in signs)]), limit)
        if ended is not None:
            self._after_end(record, following, last_sign, limit)
        else:
            self._without_end(record, following, last_sign, limit, hung=hung)

    def _limit(self, following: Record | None, signs: Sequence[Sign]) -> int:
        if following is not None:
            end = self._us(following.created.timestamp())
        elif self._now_us is not None:
            end = self._now_us
        else:
            end = max((self._us(sign.time) for sign in signs), default=self._hand)
        return max(end, self._hand)

    def _telling(self, signs: Sequence[Sign]) -> list[tuple[Sign, int]]:
        """The signs that tell of a change, with its moment.

        A busy agent hears of a beginning late, often together with the end. What the process itself measured is better:
        a phase began no later than its seconds before its end was heard.
        """
        telling = [sign for sign in signs if sign.type in _TELLING]
        moments = [self._us(sign.time) for sign in telling]
        for index, (sign, following) in enumerate(pairwise(telling)):
            if sign.type == "phase":
                moments[index] = min(moments[index], moments[index + 1] - round(following.seconds * 1e6))
        return list(zip(telling, moments, strict=True))

    def _sign(self, sign: Sign, moment: int) -> None:
        span = moment - self._hand
        if sign.type == "block":
            # Without the word that training began, a block knows at least how long it took itself.
            if self._phase != _TRAIN:
                self._spend(self._row(), moment - min(span, round(sign.seconds * 1e6)))
            self._steps_done(max(sign.step, self._step), moment)
            self._phase = _TRAIN
        elif sign.type == "evaluated" and self._phase != "evaluate":
            self._stretch(moment - min(span, round(sign.seconds * 1e6)))
            self._spend(Row.EVALUATION, moment)
        elif sign.type == "evaluated":
            self._spend(Row.EVALUATION, moment)
        elif sign.type == "stalled":
            self._stretch(moment)
        elif sign.phase not in WITHIN:
            if sign.step > self._step:
                # The agent was too busy to hear of a block.
                self._steps_done(sign.step, moment)
            self._stretch(moment)
            finishing = sign.phase == "save" and sign.detail == "last"
            self._phase = _FINISHING if finishing else "command" if sign.detail == "command" else sign.phase

    def _row(self) -> Row:
        if self._phase == _FINISHING:
            return Row.FINISH
        return OF_PHASE.get(self._phase, Row.UNKNOWN)

    def _stretch(self, moment: int) -> None:
        """From the hand to `moment` the phase went on, and no step was told."""
        if self._phase != _TRAIN:
            self._spend(self._row(), moment)
            return
        counts = self._until is None or self._step <= self._until
        self._steps_us += self._spend(Row.KEPT if counts else Row.LOST, moment)

    def _steps_done(self, step: int, moment: int) -> None:
        """From the hand to `moment`, training went from the last known step to `step`."""
        count = step - self._step
        if not count:
            self._stretch(moment)
            return
        kept = count if self._until is None else min(max(self._until - self._step, 0), count)
        span = max(moment - self._hand, 0)
        self._spend(Row.KEPT, self._hand + span * kept // count)
        self._spend(Row.LOST, moment)
        self._ledger.steps_kept += kept
        self._ledger.steps_lost += count - kept
        self._steps_us += span
        self._steps += count
        self._step = step

    # --- the end of an attempt

    def _last_step(self, record: AttemptRecord, following: Record | None) -> int:
        """The last step of the attempt, as far as anybody knows."""
        known = max(self._step, self._until or 0)
        if following is None:
            return known
        if following.previous is not None and following.previous.attempt == record.number:
            known = max(known, following.previous.step)
        if isinstance(following, AttemptRecord):
            restore = following.restore
            return max(known, restore.step) if restore and restore.attempt == record.number else known
        return max(known, following.step) if following.state == "succeeded" else known

    def _last_stretch(self, moment: int, *, hung: bool, known: int, stopped: bool) -> None:
        """From the last that was told to the end of the process."""
        if hung:
            self._spend(Row.HANG, moment)
        if known > self._step:
            self._steps_done(known, moment)
        elif self._phase == _TRAIN and not stopped:
            self._spend(Row.LOST, moment)  # a block that was not finished
        self._stretch(moment)

    def _after_end(self, record: AttemptRecord, following: Record | None, last_sign: int, limit: int) -> None:
        if isinstance(following, EndRecord) and following.state == "succeeded":
            self._spend(Row.FINISH if self._phase != "command" else Row.SCRIPT, limit)
            return
        another_launch = following is not None and following.launch.id != record.launch.id
        # After the process, the writer may still be at work.
        self._spend(Row.DOWN, last_sign if another_launch else limit)
        self._spend(Row.STOPPED, limit)

    def _without_end(
        self, record: AttemptRecord, following: Record | None, last_sign: int, limit: int, *, hung: bool
    ) -> None:
        """Nobody wrote when the process ended: it runs still, or the agent was killed."""
        known = self._last_step(record, following)
        if following is None:
            if self._now_us is None:
                self._last_stretch(limit, hung=False, known=known, stopped=False)
            else:
                self._stretch(min(last_sign + self._unseen_us, limit))
                self._spend(Row.DOWN, limit)
            return
        ended = limit
        if following.previous is not None and following.previous.attempt == record.number and following.previous.at:
            ended = min(max(self._us(following.previous.at.timestamp()), last_sign), limit)
        if hung:
            self._spend(Row.HANG, ended)
        else:
            self._stretch(last_sign)
        another_launch = following.launch.id != record.launch.id
        if known > self._step:
            # At the pace of the steps before; there is no other witness.
            pace_us = self._steps_us // self._steps if self._steps else 0
            self._steps_done(known, min(self._hand + (known - self._step) * pace_us, ended))
        if not another_launch:
            self._spend(Row.UNKNOWN, min(max(last_sign + self._unseen_us, self._hand), ended))
        self._spend(Row.STOPPED if another_launch else Row.DOWN, limit)


def _hung(attempt: int, following: Record | None, ended: Sign | None) -> bool:
    end = following.previous if following is not None else None
    told = end is not None and end.attempt == attempt and end.code == ExitCode.HANG
    return told or (ended is not None and ended.code == ExitCode.HANG)


def _is_stop(code: int) -> bool:
    return code in (ExitCode.STOPPED, ExitCode.DONE)
