"""Worker 0's second duty: it numbers attempts, names their restore point, and ends the job. A state machine without I/O.

Polls, ticks and answers of the store go in; directives and wishes (`next_action`) come out. driver.py performs the wishes;
agent/server.py carries the polls. `now` is always this machine's monotonic clock in seconds. Who the workers are is kept in
roster.py, how an attempt ended in losses.py, what the records say in known_records.py.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType

from trainer.coordinator.answers import Standing, answer, directive, reason, state_of_job
from trainer.coordinator.job import Action, Append, Job, Leave, ListCommits, Probe
from trainer.coordinator.known_records import KnownRecords, Record
from trainer.coordinator.losses import REPLACED, Losses
from trainer.coordinator.next_record import failure, next_attempt, success
from trainer.coordinator.others_records import Outcome, of_all_that_are_there, of_the_next_one
from trainer.coordinator.outage import Outage
from trainer.coordinator.roster import SILENT_S, Roster
from trainer.coordinator.verdict import TOLD_TO_LEAVE, backoff_s, give_up
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord
from trainer.rundir.lineage import NoGoodCommit, restore_point
from trainer.wire.coordinator import AgentReport, Directive, JobState


class Stage(Enum):
    """Where the coordinator is between two attempts."""

    GATHER = "gather"
    """No attempt runs: all agents are waited for, idle."""
    LIST = "list"
    """The commits are listed."""
    RECORD = "record"
    """A record is written: of the next attempt, or of the end."""
    RUN = "run"
    OVER = "over"


class Move(Enum):
    """What moves it."""

    ALL_IDLE = "all workers are idle, and the pause before the next attempt is over"
    PLANNED = "the commits are known, and so is the next attempt"
    WRITTEN = "the next attempt is on record"
    LOST = "a worker of the attempt failed, fell silent or was replaced"
    DONE = "the chief's result is in, or every program is done"
    GIVEN_UP = "no further attempt follows"
    OVERTAKEN = "somebody else wrote the next record, and we go on behind it"
    ENDED = "an end that holds for this launch is on record"


_BY_OTHERS = {Move.OVERTAKEN: Stage.GATHER, Move.ENDED: Stage.OVER}

TRANSITIONS: Mapping[Stage, Mapping[Move, Stage]] = {
    Stage.GATHER: {Move.ALL_IDLE: Stage.LIST, Move.DONE: Stage.RECORD, Move.GIVEN_UP: Stage.RECORD, **_BY_OTHERS},
    Stage.LIST: {Move.PLANNED: Stage.RECORD, Move.GIVEN_UP: Stage.RECORD, **_BY_OTHERS},
    Stage.RECORD: {Move.WRITTEN: Stage.RUN, **_BY_OTHERS},
    Stage.RUN: {Move.LOST: Stage.GATHER, Move.DONE: Stage.RECORD, **_BY_OTHERS},
    Stage.OVER: {},
}
"""Every change of stage is one of these; what is not here raises KeyError."""

PROBE_S = 10.0
"""How often the coordinator asks whether somebody else wrote the next record."""
FINAL_S = 5.0
"""After a final code, how long the other workers' reports are waited for."""
END_S = 60.0
"""How long a failed job waits for a store that does not take its end record, before it ends without one."""
FROZEN_S = 3.0
"""Between two ticks: this process stood still, and others may have gone on without it."""


class Coordinator:
    """One coordinator's life. Not thread-safe: the caller holds one lock around every call."""

    def __init__(
        self,
        job: Job,
        records: Sequence[Record],
        now: float,
        changed: Mapping[int, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """`changed`: by the number of an end record, in what this job differs from the one that ended there, and whose result
        would be reported otherwise."""
        self.job = job
        self.stage = Stage.GATHER
        self.end: EndRecord | None = None
        """The end record, once there is one: agents leave with its code."""
        self.leave: Leave | None = None
        """With what this worker is to leave, and all that ask it, whatever the records say next."""
        self._changed = changed
        self._known = KnownRecords(records, job.launch.id)
        self.records = self._known.all
        """All that are known, oldest first."""
        self._roster = Roster(job, self._known)
        self._losses = Losses()
        self._outage = Outage(now)
        self._running: int | None = None
        self._created_here: set[int] = set()
        self._started_s = self._ticked_s = self._stage_since_s = now
        self._pending: Record | None = None
        self._in_flight = False
        self._next_probe_s = now + PROBE_S
        self._previous: AttemptEnd | None = None
        self._told: set[int] = set()
        self._settle(of_all_that_are_there(job, self._known, changed), now)

    @property
    def attempt(self) -> AttemptRecord | None:
        """The newest attempt in the records."""
        return self._known.attempt

    def _go(self, event: Move, now: float) -> None:
        self.stage = TRANSITIONS[self.stage][event]
        if self.stage is not Stage.OVER:
            self._stage_since_s = now

    # --- what agents say

    def poll(self, report: AgentReport, now: float) -> Directive:
        """One worker's report, and what it is to do."""
        if report.launch == self.job.launch.id and report.attempt > self._known.number:
            # Not theirs, but this coordinator's attempt is over, and it does not know yet: it must not end that later one.
            self.look(now)
            return directive(self._standing(), "wait", reason="another worker 0 may have taken over: looking")
        stranger = self._roster.why_stranger(report)
        if stranger:
            return directive(self._standing(), "leave", reason=stranger)
        replaced = self._roster.hear(report, now)
        if replaced is not None:
            self._lost(report.index, now, REPLACED, replaced.report.memory_bytes)
        attempt = self.attempt
        ran = self._running if self._running is not None else attempt.number if attempt else None
        if report.state != "running" and report.last_exit is not None and report.last_exit.attempt == ran:
            self._losses.reported(report, report.last_exit, now)
        if report.state == "leaving":
            self._lost(report.index, now, TOLD_TO_LEAVE, report.memory_bytes)
        self._advance(now)
        told = answer(self._standing(), report)
        if told.kind == "run":
            self._roster.started(report, told.attempt, now)
        elif told.kind in ("leave", "exit"):
            self._told.add(report.index)
        return told

    def tick(self, now: float) -> None:
        """Time passed: notices silent agents and limits."""
        if now - self._ticked_s > FROZEN_S:
            self.look(now)
            self._roster.excuse(now)
        self._ticked_s = now
        for seen in self._roster:
            if now - seen.at_s > SILENT_S and seen.report.state != "leaving":
                silent = f"has been silent for {SILENT_S:.0f} s"
                self._lost(seen.report.index, now, silent, seen.report.memory_bytes)
        if self.stage is Stage.RUN:
            self._losses.watch_rendezvous(self._roster.reports, self.job.workers, now)
        self._advance(now)

    def _lost(self, index: int, now: float, why: str, memory_bytes: int) -> None:
        # While the attempt's ends are gathered, too: that a peer's echo was heard first must not make it the culprit.
        gathering = self.stage is Stage.GATHER and self._running is not None and self._previous is None
        if self.stage is Stage.RUN or gathering:
            self._losses.lost(index, now, why, memory_bytes)

    def everybody_told(self, now: float) -> bool:
        """Whether every other live agent has fetched the end, or that it is to leave, so that this one may leave."""
        complete = len(self._roster) >= self.job.workers or now - self._stage_since_s > SILENT_S
        return self._roster.everybody_else(self._told, now) and complete

    # --- what the store says

    def next_action(self, now: float) -> Action | None:
        """The one wish of the moment, or None. It is not asked again until it was answered."""
        if self._in_flight or self.leave or self.end is not None or now < self._outage.resume_at_s:
            return None
        action: Action | None = None
        if self.stage is Stage.LIST:
            action = ListCommits(self.attempt.number if self.attempt else None)
        elif self.stage is Stage.RECORD and self._pending is not None:
            action = Append(self._pending)
        elif now >= self._next_probe_s:
            action = Probe(self._known.number + 1)
        self._in_flight = action is not None
        return action

    def commits_listed(self, commits: Sequence[CommitRef], now: float) -> None:
        """The answer to ListCommits."""
        self._store_answered(now)
        if self.stage is Stage.LIST:
            self._prepare(commits, now)

    def appended(self, record: Record, now: float) -> None:
        """The answer to Append: the record that holds the number now, ours or somebody else's."""
        self._store_answered(now)
        mine, self._pending = self._pending, None
        if mine is None or record.nonce != mine.nonce:
            self._found(record, now)
            return
        self.records.append(record)
        if isinstance(record, EndRecord):
            self._settle(record, now)
            return
        self._created_here.add(record.number)
        self._running = record.number
        self._losses = Losses()
        self._previous = None
        self._go(Move.WRITTEN, now)
        # A member lost while the record was written ends the new attempt at once.
        named = {member.index: member.uid for member in record.members}
        for report in [seen.report for seen in self._roster]:
            if report.uid != named.get(report.index):
                self._lost(report.index, now, REPLACED, report.memory_bytes)
            elif report.state == "leaving":
                self._lost(report.index, now, TOLD_TO_LEAVE, report.memory_bytes)

    def probed(self, record: Record | None, now: float) -> None:
        """The answer to Probe."""
        self._store_answered(now)
        self._next_probe_s = now + PROBE_S
        if record is not None and self.end is None and record.number == self._known.number + 1:
            self._found(record, now)

    def look(self, now: float) -> None:
        """Somebody else may have written the next record: probe soon."""
        self._next_probe_s = now

    def store_failed(self, error: str, now: float) -> None:
        """The store did not answer an action: it is asked again, later. Neither budget nor start_timeout runs meanwhile."""
        self._in_flight = False
        self._outage.began(error, now)
        self._next_probe_s = max(self._next_probe_s, now + PROBE_S)
        end = self._pending
        if isinstance(end, EndRecord) and end.state == "failed" and self._outage.lasts_s(now) > END_S:
            # The verdict stands, and the record would only tell of it: nobody is kept waiting for a full disk.
            without = f"{end.reason} (the store does not take the record of this end: {error})"
            self.leave = Leave(ExitCode(end.code), without)

    def _store_answered(self, now: float) -> None:
        self._in_flight = False
        # Nobody could start meanwhile: the limits of a start go on from here.
        self._started_s += self._outage.ended(now)

    # --- what the records say

    def _found(self, record: Record, now: float) -> None:
        """Somebody else wrote the record that follows ours."""
        self._pending = None
        outcome = of_the_next_one(self.job, self._known, record)
        if not isinstance(outcome, Leave):
            self.records.append(record)
        if outcome is None:
            self._losses = Losses()
            self._previous = self._running = None
            self._go(Move.OVERTAKEN, now)
            outcome = of_all_that_are_there(self.job, self._known, self._changed)
        self._settle(outcome, now)

    def _settle(self, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, EndRecord):
            self.end = outcome
            self._go(Move.ENDED, now)
        elif outcome is not None:
            self.leave = outcome

    # --- decisions

    def _advance(self, now: float) -> None:
        if self.end is not None or self.leave:
            return
        done = self._losses.is_done(self.job.workers)
        if self.stage is Stage.RUN and self._losses:
            if done:
                self._conclude(now)
            elif not self._losses.all_well:
                self._go(Move.LOST, now)
        if self.stage is Stage.GATHER:
            # Done all the same: what was heard late. Unless somebody failed for good, which beats all.
            if done and not self._losses.final:
                self._conclude(now)
            else:
                self._gather(now)

    def _gather(self, now: float) -> None:
        missing = self._roster.missing(now)
        if not missing or (self._losses.final and now - self._stage_since_s > FINAL_S):
            self._previous = self._previous or self._why_it_ended()
            if self._gives_up(0, 0, now):  # whatever was committed
                return
        if missing:
            late = now - self._started_s > self.job.start_timeout_s and not self._outage.error
            if not self._known.own_attempts and late:
                names, limit_s = ", ".join(str(index) for index in missing), self.job.start_timeout_s
                why = f"start_timeout: after {limit_s:.0f} s these workers are still missing: {names}"
                self._give_up(ExitCode.GIVEN_UP, why, now)
            return
        wait_s = backoff_s([*self._known.earlier_ends(), *([self._previous] if self._previous else [])])
        if now - self._stage_since_s >= wait_s:
            self._go(Move.ALL_IDLE, now)

    def _why_it_ended(self) -> AttemptEnd | None:
        """The end of the newest attempt, if one ran since the last record; None before the first and after an end."""
        newest = self._known.newest
        if not isinstance(newest, AttemptRecord):
            return None
        replaced_s = None if newest.number in self._created_here else self._started_s
        return self._losses.in_all(self._known, newest, replaced_s, self.job.memory_limit_bytes)

    def _gives_up(self, used: int, budget: int, now: float) -> bool:
        """Ends the job when the last attempt's end says so. Returns whether it did."""
        if self._previous is None or not self._known.is_of_launch(self._previous):
            return False
        verdict = give_up(self._previous, self._known.earlier_ends(), budget_used=used, budget_max=budget)
        if verdict is not None:
            self._give_up(verdict.code, verdict.reason, now)
        return verdict is not None

    def _prepare(self, commits: Sequence[CommitRef], now: float) -> None:
        """All are idle and the commits are known: the next attempt's record, or the end."""
        own, previous, used = self._known.own_attempts, self._previous, self._known.budget_used
        if own and previous is not None and self._known.is_of_launch(previous):
            # A restart costs budget unless the attempt before it committed something.
            used += 0 if any(commit.attempt == previous.attempt for commit in commits) else 1
            if self._gives_up(used, self.job.restarts_max, now):
                return
        bad = self._bad()
        fresh = self.job.fresh and not own
        restore = None if fresh else restore_point(self.records, commits, bad=bad)
        if isinstance(restore, NoGoodCommit):
            self._give_up(ExitCode.CONFIGURATION, restore.reason, now)
            return
        workers = self._roster.reports
        self._pending = next_attempt(self.job, self._known, workers, restore, bad, used, previous)
        self._go(Move.PLANNED, now)

    def _conclude(self, now: float) -> None:
        chief = self._roster.reports[0]
        self._pending = success(
            self.job, self._known, chief, self._losses.result, bad=self._bad(), previous=self._previous
        )
        self._go(Move.DONE, now)

    def _give_up(self, code: int, reason: str, now: float) -> None:
        culprit = self._previous.worker if self._previous else None
        loss = self._losses.by_worker.get(culprit) if culprit is not None else None
        self._pending = failure(
            self.job,
            self._known,
            code,
            reason,
            step=max([self._previous.step if self._previous else 0, *(r.step for r in self._roster.reports)]),
            traceback=loss.report.traceback if loss and loss.report else "",
            bad=self._bad(),
            previous=self._previous,
        )
        self._go(Move.GIVEN_UP, now)

    def _bad(self) -> list[str]:
        reported = [seen.report.last_exit for seen in self._roster]
        return self._known.bad([*(loss.report for loss in self._losses.all), *reported])

    # --- answers

    def reason(self) -> str:
        """What the job is doing or waiting for, in one line."""
        return reason(self._standing())

    def state(self, now: float) -> JobState:
        """What `orch status` shows."""
        return state_of_job(self._standing(), self._previous, now - self._stage_since_s)

    def _standing(self) -> Standing:
        return Standing(
            job=self.job,
            known=self._known,
            roster=self._roster,
            runs=self.stage is Stage.RUN,
            concludes=isinstance(self._pending, EndRecord) and self._pending.state == "succeeded",
            end=self.end,
            leave=self.leave,
            lost=self._lost_in_words,
            outage=self._outage.in_words,
            ticked_s=self._ticked_s,
        )

    def _lost_in_words(self) -> str:
        end = self._why_it_ended() if self._losses else None
        return end.reason if end else "the attempt is over" if self._losses else ""
