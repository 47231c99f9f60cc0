"""Worker 0's second duty: it numbers attempts, names their restore point, and ends the job. A state machine without I/O.

Polls, ticks and answers of the store go in; directives and wishes (`next_action`) come out. driver.py performs the
wishes; agent/server.py carries the polls. `now` is always this machine's monotonic clock in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType

from trainer.coordinator.verdict import TOLD_TO_LEAVE, Loss, backoff_s, end_of_attempt, ends_of_launch, give_up
from trainer.exit_codes import FINAL_CODES, ExitCode
from trainer.rundir.attempts import (
    AttemptEnd,
    AttemptRecord,
    CommitRef,
    EndRecord,
    Launch,
    Member,
    new_nonce,
)
from trainer.rundir.attempts import now as time_of_day
from trainer.rundir.history import restarts_of
from trainer.rundir.lineage import NoGoodCommit, restore_point
from trainer.wire.coordinator import AgentReport, Directive, JobState
from trainer.wire.process import WITHIN, Phase, Result
from trainer.wire.termination import ANEW

SILENT_S = 10.0
"""An agent that has not polled for so long is lost."""
PROBE_S = 10.0
"""How often the coordinator asks whether somebody else wrote the next record."""
RENDEZVOUS_S = 60.0
"""How long the strategy may wait for peers after the last member started."""
FINAL_S = 5.0
"""After a final code, how long the other workers' reports are waited for."""
STORE_WAIT_MAX_S = 60.0
END_S = 60.0
"""How long a failed job waits for a store that does not take its end record, before it ends without one."""
REPLACED = "was replaced: its agent or pod had ended"
HISTORY = 10
"""So many restarts are told to whoever asks for the job's state."""
FROZEN_S = 3.0
"""Between two ticks: this process stood still, and others may have gone on without it."""


@dataclass(frozen=True)
class Job:
    """What the coordinator knows of the job from the start."""

    name: str
    workers: int
    uid: str
    launch: Launch
    restarts_max: int = 20
    start_timeout_s: float = 900.0
    steps_asked: int | None = None
    epochs_asked: int | None = None
    fresh: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    cpu_flags: str = ""
    memory_limit_bytes: int | None = None
    poll_s: float = 0.25


@dataclass(frozen=True)
class ListCommits:
    """Wish: close attempt `closing`, list the commits of the run directory, then call commits_listed."""

    closing: int | None
    """The newest attempt, None before the first. Closed before the list is taken, lest an old writer still acknowledges a
    commit that is not in it."""


@dataclass(frozen=True)
class Append:
    """Wish: write this record, then call appended with the record that holds its number."""

    record: AttemptRecord | EndRecord


@dataclass(frozen=True)
class Probe:
    """Wish: read record `number`, then call probed with it or None."""

    number: int


Action = ListCommits | Append | Probe


def finished_before(job: Job, end: EndRecord) -> bool:
    """Whether an earlier launch did already all that this one asks for."""
    if job.fresh or end.launch.id == job.launch.id or end.state != "succeeded":
        return False
    if job.steps_asked is not None:
        return job.steps_asked <= max(end.step, end.steps_asked or 0)
    if job.epochs_asked is not None:
        return end.epochs_asked is not None and job.epochs_asked <= end.epochs_asked
    return True


class Stage(Enum):
    """Where the coordinator is between two attempts."""

    GATHER = "gather"
    LIST = "list"
    RECORD = "record"
    RUN = "run"
    OVER = "over"


def waiting_for_store(since: datetime, error: str) -> str:
    """For a person: what everybody waits for."""
    return f"waiting for the store since {since:%H:%M:%S} UTC: {' '.join(error.split())}"


@dataclass(frozen=True)
class _Seen:
    report: AgentReport
    at_s: float


class Coordinator:
    """One coordinator's life. Not thread-safe: the caller holds one lock around every call."""

    def __init__(
        self,
        job: Job,
        records: Sequence[AttemptRecord | EndRecord],
        now: float,
        changed: Mapping[int, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """`changed`: by the number of an end record, in what this job differs from the one that ended there, and whose result
        would be reported otherwise."""
        self.job = job
        self._changed = changed
        self.records = list(records)
        self.stage = Stage.GATHER
        self.end: EndRecord | None = None
        """The end record, once there is one: agents leave with its code."""
        self.leave: tuple[ExitCode, str] | None = None
        self._leave_remedy = ""
        """This worker has no business here any more: the code and the reason to leave with."""
        self.store_error = ""
        self._store_failing_since: tuple[float, datetime] | None = None
        self._agents: dict[int, _Seen] = {}
        self._replaced: set[str] = set()
        self._losses: dict[int, Loss] = {}
        self._running: int | None = None
        self._created_here: set[int] = set()
        self._started_s = self._ticked_s = now
        self._stage_since_s = now
        self._resume_at_s = now
        self._store_wait_s = 0.0
        self._pending: AttemptRecord | EndRecord | None = None
        self._in_flight = False
        self._next_probe_s = now + PROBE_S
        self._previous: AttemptEnd | None = None
        self._told: set[int] = set()
        self._all_running_s: float | None = None
        self._result: Result | None = None
        self._read_newest()

    def _read_newest(self) -> None:
        newest = self.records[-1] if self.records else None
        if newest is None:
            return
        # An end of this launch stands, whoever went on behind it.
        end = next((end for end in self.records if isinstance(end, EndRecord) and self._of_ours(end)), None)
        if end is not None:
            self._ended(end)
        elif newest.launch.id != self.job.launch.id and any(self._of_ours(record) for record in self.records):
            self._taken_over_by(newest)
        elif isinstance(newest, EndRecord) and finished_before(self.job, newest):
            changes = self._changed.get(newest.number)
            if changes:
                told = f"{newest.reason}: it is finished, and the job has changed since: {'; '.join(changes)}"
                self.leave, self._leave_remedy = (ExitCode.CONFIGURATION, told), ANEW
            else:
                self._ended(newest)

    # --- what is known

    @property
    def attempt(self) -> AttemptRecord | None:
        """The newest attempt in the records."""
        return next((record for record in reversed(self.records) if isinstance(record, AttemptRecord)), None)

    @property
    def _number(self) -> int:
        return self.records[-1].number if self.records else 0

    def _of_ours(self, record: AttemptRecord | EndRecord) -> bool:
        return record.launch.id == self.job.launch.id

    def _of_launch(self) -> list[AttemptRecord]:
        return [record for record in self.records if isinstance(record, AttemptRecord) and self._of_ours(record)]

    def _bad(self) -> list[str]:
        """Names of the commits found damaged: those on record, and what agents reported since."""
        names = list(self.records[-1].bad) if self.records else []
        reports = [loss.report for loss in self._losses.values()] + [
            seen.report.last_exit for seen in self._agents.values()
        ]
        names += [report.bad_commit for report in reports if report is not None and report.bad_commit]
        return list(dict.fromkeys(names))

    def _recorded(self, uid: str) -> bool:
        return any(member.uid == uid for record in self._of_launch() for member in record.members)

    def _is_superseded(self, uid: str) -> bool:
        """A UID named in an earlier record and not in the newest one is out for good."""
        attempts = self._of_launch()
        newest = {member.uid for member in attempts[-1].members} if attempts else set()
        return uid not in newest and self._recorded(uid)

    # --- events

    def poll(self, report: AgentReport, now: float) -> Directive:
        """One worker's report, and what it is to do."""
        if self._of_a_later_attempt(report):
            # Not theirs, but this coordinator's attempt is over, and it does not know yet: it must not end that later one.
            self.look(now)
            return self._directive("wait", reason="another worker 0 may have taken over: looking")
        stranger = self._stranger(report)
        if stranger:
            return self._directive("leave", reason=stranger)
        seen = self._agents.get(report.index)
        if seen and seen.report.uid != report.uid:
            self._replaced.add(seen.report.uid)
            self._lost(report.index, now, why=REPLACED)
        self._agents[report.index] = _Seen(report, now)
        if report.state != "running" and report.last_exit is not None:
            self._exited(report, now)
        if report.state == "leaving":
            self._lost(report.index, now, why=TOLD_TO_LEAVE)
        self._advance(now)
        directive = self._answer(report)
        if directive.kind == "run":
            # Idle no more: only its next report may say so, else its commits could come after the commits were listed.
            started = report.model_copy(update={"state": "running", "attempt": directive.attempt})
            self._agents[report.index] = _Seen(started, now)
        return directive

    def _of_a_later_attempt(self, report: AgentReport) -> bool:
        return report.launch == self.job.launch.id and report.attempt > self._number

    def _stranger(self, report: AgentReport) -> str:
        if report.launch != self.job.launch.id:
            return f"this run directory is used by launch {self.job.launch.id}"
        if report.index >= self.job.workers:
            return f"worker {report.index} is beyond the job's {self.job.workers} workers"
        # Another agent of index 0 has a coordinator of its own, and does not poll this one, unless it is an older one.
        if report.index == 0 and report.uid != self.job.uid:
            return "another agent is worker 0 now"
        seen = self._agents.get(report.index)
        # Of two that live, the one in no record came later.
        older = seen is not None and seen.report.uid != report.uid and self._recorded(report.uid)
        if report.uid in self._replaced or self._is_superseded(report.uid) or older:
            return f"another agent took the place of this one as worker {report.index}"
        return ""

    def tick(self, now: float) -> None:
        """Time passed: notices silent agents and limits."""
        if now - self._ticked_s > FROZEN_S:
            self.look(now)
            # It did not listen, so it cannot say that nobody spoke.
            self._agents = {index: _Seen(seen.report, now) for index, seen in self._agents.items()}
        self._ticked_s = now
        for index, seen in list(self._agents.items()):
            if now - seen.at_s > SILENT_S and seen.report.state != "leaving":
                self._lost(index, now, why=f"has been silent for {SILENT_S:.0f} s")
        self._check_rendezvous(now)
        self._advance(now)

    def commits_listed(self, commits: Sequence[CommitRef], now: float) -> None:
        """The answer to ListCommits."""
        self._store_answered(now)
        if self.stage is Stage.LIST:
            self._prepare(commits, now)

    def appended(self, record: AttemptRecord | EndRecord, now: float) -> None:
        """The answer to Append: the record that holds the number now, ours or somebody else's."""
        self._store_answered(now)
        mine, self._pending = self._pending, None
        if mine is None or record.nonce != mine.nonce:
            self._found(record, now)
            return
        self.records.append(record)
        if isinstance(record, EndRecord):
            self._ended(record)
            return
        self._created_here.add(record.number)
        self._running = record.number
        self._losses = {}
        self._result = None
        self._previous = None
        self._all_running_s = None
        self._enter(Stage.RUN, now)
        # A member lost while the record was written ends the new attempt at once.
        named = {member.index: member.uid for member in record.members}
        for index, seen in self._agents.items():
            if seen.report.uid != named.get(index):
                self._lost(index, now, why=REPLACED)
            elif seen.report.state == "leaving":
                self._lost(index, now, why=TOLD_TO_LEAVE)

    def probed(self, record: AttemptRecord | EndRecord | None, now: float) -> None:
        """The answer to Probe."""
        self._store_answered(now)
        self._next_probe_s = now + PROBE_S
        if record is not None and self.end is None and record.number == self._number + 1:
            self._found(record, now)

    def look(self, now: float) -> None:
        """Somebody else may have written the next record: probe soon."""
        self._next_probe_s = now

    def store_failed(self, error: str, now: float) -> None:
        """The store did not answer an action: it is asked again, later. Neither budget nor start_timeout runs meanwhile."""
        self._in_flight = False
        self.store_error = error
        self._store_failing_since = self._store_failing_since or (now, time_of_day())
        self._store_wait_s = min(max(1.0, self._store_wait_s * 2), STORE_WAIT_MAX_S)
        self._resume_at_s = now + self._store_wait_s
        self._next_probe_s = max(self._next_probe_s, now + PROBE_S)
        end = self._pending
        if isinstance(end, EndRecord) and end.state == "failed" and now - self._store_failing_since[0] > END_S:
            # The verdict stands, and the record would only tell of it: nobody is kept waiting for a full disk.
            self.leave = (ExitCode(end.code), f"{end.reason} (the store does not take the record of this end: {error})")

    def next_action(self, now: float) -> Action | None:
        """The one wish of the moment, or None. It is not asked again until it was answered."""
        if self._in_flight or self.leave or self.end is not None or now < self._resume_at_s:
            return None
        action: Action | None = None
        if self.stage is Stage.LIST:
            action = ListCommits(self.attempt.number if self.attempt else None)
        elif self.stage is Stage.RECORD and self._pending is not None:
            action = Append(self._pending)
        elif now >= self._next_probe_s:
            action = Probe(self._number + 1)
        self._in_flight = action is not None
        return action

    def everybody_told(self, now: float) -> bool:
        """Whether every other live agent has fetched the end, or that it is to leave, so that this one may leave."""
        return all(
            index in self._told or now - seen.at_s > SILENT_S / 2 or seen.report.state == "leaving"
            for index, seen in self._agents.items()
            if index != 0
        ) and (len(self._agents) >= self.job.workers or now - self._stage_since_s > SILENT_S)

    # --- decisions

    def _exited(self, report: AgentReport, now: float) -> None:
        exit_report = report.last_exit
        if exit_report is None or self._running is None or exit_report.attempt != self._running:
            # An attempt that an earlier coordinator created: its reports still tell why it ended.
            known = self.attempt
            if exit_report is None or known is None or exit_report.attempt != known.number or self._running is not None:
                return
        if report.index == 0 and report.result is not None and exit_report.code == ExitCode.DONE:
            self._result = report.result
        loss = self._losses.get(report.index)
        if loss is None or loss.report is None:
            at_s, why = (loss.at_s, loss.why) if loss else (now, "")
            self._losses[report.index] = Loss(report.index, at_s, exit_report, why=why)

    def _lost(self, index: int, now: float, *, why: str) -> None:
        # While the attempt's ends are gathered, too: that a peer's echo was heard first must not make it the culprit.
        gathering = self.stage is Stage.GATHER and self._running is not None and self._previous is None
        if (self.stage is Stage.RUN or gathering) and index not in self._losses:
            seen = self._agents.get(index)
            self._losses[index] = Loss(index, now, why=why, memory_bytes=seen.report.memory_bytes if seen else 0)

    def _check_rendezvous(self, now: float) -> None:
        if self.stage is not Stage.RUN or self._losses:
            return
        running = [seen.report for seen in self._agents.values() if seen.report.state == "running"]
        if len(running) < self.job.workers:
            return
        if self._all_running_s is None:
            self._all_running_s = now
        waiting = sorted(report.index for report in running if report.phase is Phase.RENDEZVOUS)
        if (
            waiting
            and now - self._all_running_s > RENDEZVOUS_S
            and all(report.phase_s > RENDEZVOUS_S for report in running if report.index in waiting)
        ):
            missing = sorted(report.index for report in running if report.index not in waiting)
            who = f"worker {missing[0]} is missing" if missing else "no worker reached the others"
            self._losses[(missing or waiting)[0]] = Loss(
                (missing or waiting)[0], now, why=f"did not meet its peers within {RENDEZVOUS_S:.0f} s ({who})"
            )

    def _advance(self, now: float) -> None:
        if self.end is not None or self.leave:
            return
        if self.stage is Stage.RUN and self._losses:
            if self._is_done():
                self._conclude(now)
            elif not self._all_well():
                self._enter(Stage.GATHER, now)
        if self.stage is Stage.GATHER:
            # Done all the same: what was heard late. Unless somebody failed for good, which beats all.
            if self._is_done() and not self._final_losses():
                self._conclude(now)
            else:
                self._gather(now)

    def _all_well(self) -> bool:
        return all(loss.report and loss.report.code == ExitCode.DONE for loss in self._losses.values())

    def _is_done(self) -> bool:
        """The chief brought its result, or every process is done and nobody brings one: a `command:` job."""
        return self._result is not None or (len(self._losses) == self.job.workers and self._all_well())

    def _final_losses(self) -> list[Loss]:
        return [loss for loss in self._losses.values() if loss.report and loss.report.code in FINAL_CODES]

    def _gather(self, now: float) -> None:
        missing = self.missing(now)
        if not missing or (self._final_losses() and now - self._stage_since_s > FINAL_S):
            if self._previous is None:
                self._previous = self._why_it_ended()
            if self._verdict_without_commits(now):
                return
        if missing:
            if not self._of_launch() and now - self._started_s > self.job.start_timeout_s and not self.store_error:
                names = ", ".join(str(index) for index in missing)
                self._give_up(
                    ExitCode.GIVEN_UP,
                    f"start_timeout: after {self.job.start_timeout_s:.0f} s these workers are still missing: {names}",
                    now,
                )
            return
        wait_s = backoff_s([*self._earlier_ends(), *([self._previous] if self._previous else [])])
        if now - self._stage_since_s >= wait_s:
            self._enter(Stage.LIST, now)

    def missing(self, now: float) -> list[int]:
        """Indexes that are not registered idle."""
        return [
            index
            for index in range(self.job.workers)
            if (seen := self._agents.get(index)) is None or seen.report.state != "idle" or now - seen.at_s > SILENT_S
        ]

    def _why_it_ended(self) -> AttemptEnd | None:
        """The end of the newest attempt, if one ran since the last record; None before the first and after an end."""
        newest = self.records[-1] if self.records else None
        if not isinstance(newest, AttemptRecord):
            return None
        if newest.launch.id != self.job.launch.id:
            return AttemptEnd(
                attempt=newest.number, code=ExitCode.STOPPED, reason="the launch before this one stopped here"
            )
        losses = dict(self._losses)
        if newest.number not in self._created_here:
            # Whoever created it was worker 0, whose place this agent took: what its peers tell are echoes of that.
            losses.setdefault(0, Loss(0, self._started_s, why=REPLACED))
        return end_of_attempt(
            newest.number,
            list(losses.values()),
            memory_limit=self.job.memory_limit_bytes,
            at=time_of_day(),
        )

    def _earlier_ends(self) -> list[AttemptEnd]:
        return ends_of_launch(self.records, self.job.launch.id)

    def _in_launch(self, end: AttemptEnd | None) -> bool:
        return end is not None and any(record.number == end.attempt for record in self._of_launch())

    def _verdict_without_commits(self, now: float) -> bool:
        """Ends the job when the last attempt's end says so whatever was committed. Returns whether it did."""
        if self._previous is None or not self._in_launch(self._previous):
            return False
        verdict = give_up(self._previous, self._earlier_ends(), budget_used=0, budget_max=0)
        if verdict is None:
            return False
        self._give_up(verdict.code, verdict.reason, now)
        return True

    def _prepare(self, commits: Sequence[CommitRef], now: float) -> None:
        """All are idle and the commits are known: the next attempt's record, or the end."""
        own = self._of_launch()
        used = own[-1].budget_used if own else 0
        if own and self._previous is not None and self._in_launch(self._previous):
            # A restart costs budget unless the attempt before it committed something.
            used += 0 if any(commit.attempt == self._previous.attempt for commit in commits) else 1
            verdict = give_up(self._previous, self._earlier_ends(), budget_used=used, budget_max=self.job.restarts_max)
            if verdict is not None:
                self._give_up(verdict.code, verdict.reason, now)
                return
        bad = self._bad()
        fresh = self.job.fresh and not own
        restore = None if fresh else restore_point(self.records, commits, bad=bad)
        if isinstance(restore, NoGoodCommit):
            self._give_up(ExitCode.CONFIGURATION, restore.reason, now)
            return
        self._pending = AttemptRecord(
            number=self._number + 1,
            nonce=new_nonce(),
            launch=self.job.launch,
            created=time_of_day(),
            members=[
                Member(index=index, uid=seen.report.uid, address=seen.report.address, port=seen.report.port)
                for index, seen in sorted(self._agents.items())
            ],
            restore=restore,
            fresh=fresh,
            world_size=self.job.workers,
            versions=self.job.versions,
            cpu_flags=self.job.cpu_flags,
            bad=bad,
            budget_used=used,
            restarts=len(own),
            previous=self._previous,
        )
        self._enter(Stage.RECORD, now)

    def _conclude(self, now: float) -> None:
        """The chief is done, or every script is: success."""
        attempt = self.attempt
        chief = self._agents[0].report
        result = self._result
        steps = result.step if result else chief.step
        self._append_end(
            state="succeeded",
            code=ExitCode.DONE,
            reason=(result.reason or f"trained {steps} steps") if result else "every worker ended well",
            step=steps,
            total_steps=result.total_steps if result else None,
            commit=chief.last_commit or (attempt.restore if attempt else None),
            metrics=result.metrics if result else {},
            weights_sha256=result.weights_sha256 if result else None,
            export=result.export if result else None,
            load=result.load if result else "",
            now=now,
        )

    def _give_up(self, code: int, reason: str, now: float) -> None:
        culprit = self._previous.worker if self._previous else None
        loss = self._losses.get(culprit) if culprit is not None else None
        step = max(
            [self._previous.step if self._previous else 0, *(seen.report.step for seen in self._agents.values())]
        )
        self._append_end(
            state="failed",
            code=code,
            reason=reason,
            step=step,
            traceback=loss.report.traceback if loss and loss.report else "",
            now=now,
        )

    def _append_end(self, *, now: float, **facts: object) -> None:
        attempt = self.attempt
        own = self._of_launch()
        self._pending = EndRecord.model_validate(
            {
                "number": self._number + 1,
                "nonce": new_nonce(),
                "launch": self.job.launch,
                "created": time_of_day(),
                "attempts": attempt.number if attempt else 0,
                "restarts": max(len(own) - 1, 0),
                "steps_asked": self.job.steps_asked,
                "epochs_asked": self.job.epochs_asked,
                "bad": self._bad(),
                "previous": self._previous,
                **facts,
            }
        )
        self._enter(Stage.RECORD, now)

    def _ended(self, end: EndRecord) -> None:
        self.end = end
        self.stage = Stage.OVER

    def _found(self, record: AttemptRecord | EndRecord, now: float) -> None:
        """Somebody else wrote the record that follows ours."""
        self._pending = None
        ours = self._of_ours(record)
        began = any(self._of_ours(known) for known in self.records)
        if ours and isinstance(record, EndRecord):
            self.records.append(record)
            self._ended(record)
        elif not ours and (began or record.launch.started > self.job.launch.started):
            self._taken_over_by(record)
        elif not ours:
            # An earlier launch was a little quicker once more. (Two that begin at the same time go by their clocks: whichever
            # is the later one, one of them goes on and the other ends.)
            self._go_on_behind(record, now)
        elif self._is_older(record):
            # Worker 0 whose place this one took was a little quicker once more. It finds the next record and leaves.
            self._go_on_behind(record, now)
        else:
            self.leave = (ExitCode.STOPPED, f"superseded: attempt {record.number} was created by another coordinator")

    def _is_older(self, record: AttemptRecord | EndRecord) -> bool:
        """Whether a worker 0 wrote it that was there before this one: one that the records named already."""
        authors = [member.uid for member in record.members if member.index == 0] if record.kind == "attempt" else []
        return any(self._recorded(uid) for uid in authors)

    def _go_on_behind(self, record: AttemptRecord | EndRecord, now: float) -> None:
        self.records.append(record)
        self._losses = {}
        self._previous = self._running = self._result = None
        self._enter(Stage.GATHER, now)
        self._read_newest()

    def _taken_over_by(self, record: AttemptRecord | EndRecord) -> None:
        self.leave = (
            ExitCode.CONFIGURATION,
            f"run directory taken over by launch {record.launch.id}, started {record.launch.started:%Y-%m-%d %H:%M:%S} UTC",
        )

    def _store_answered(self, now: float) -> None:
        self._in_flight = False
        self.store_error = ""
        self._store_wait_s = 0.0
        if self._store_failing_since is not None:
            # Nobody could start meanwhile: the limits of a start go on from here.
            self._started_s += now - self._store_failing_since[0]
            self._store_failing_since = None

    def _enter(self, stage: Stage, now: float) -> None:
        self.stage = stage
        self._stage_since_s = now

    # --- answers

    def _answer(self, report: AgentReport) -> Directive:
        if self.leave and self.leave[0] == ExitCode.STOPPED and report.uid != self.job.uid:
            # This worker 0 was superseded; the others were not, and find the new one when they ask again.
            return self._directive("wait", reason=self.leave[1])
        if self.leave:
            self._told.add(report.index)
            return self._directive("leave", code=self.leave[0], reason=self.leave[1], remedy=self._leave_remedy)
        if self.end is not None:
            self._told.add(report.index)
            return self._directive("exit", end=self.end, reason=self.end.reason)
        if self.stage is Stage.RUN:
            return self._answer_running(report)
        concluding = isinstance(self._pending, EndRecord) and self._pending.state == "succeeded"
        if report.state == "running" and not concluding:
            return self._directive("end", reason=self._losses_in_words())
        return self._directive("wait", reason=self.reason(report))

    def _answer_running(self, report: AgentReport) -> Directive:
        record = self.attempt
        if record is None or report.state == "leaving":
            return self._directive("wait")
        if report.state == "running":
            if report.attempt != record.number:
                return self._directive("end")
            others = (seen.report for index, seen in self._agents.items() if index != report.index)
            return self._directive("wait", peers_wait=any(other.phase in WITHIN for other in others))
        # An agent that took the place of one whose process was done already has no part in this attempt.
        if report.attempt < record.number and any(member.uid == report.uid for member in record.members):
            return self._directive("run", record=record)
        return self._directive("wait", reason="waiting for the other workers to end")

    def _directive(self, kind: str, **facts: object) -> Directive:
        return Directive.model_validate(
            {
                "kind": kind,
                "coordinator": self.job.uid,
                "attempt": self.attempt.number if self.attempt else 0,
                "poll_after_s": max(self.job.poll_s, self.job.workers / 200),
                **facts,
            }
        )

    def _losses_in_words(self) -> str:
        end = self._why_it_ended() if self._losses else None
        return end.reason if end else "the attempt is over"

    def reason(self, report: AgentReport | None = None) -> str:
        """What the job is doing or waiting for, in one line."""
        if self.end is not None:
            return self.end.reason
        if self.leave:
            return self.leave[1]
        if self._store_failing_since is not None:
            return waiting_for_store(self._store_failing_since[1], self.store_error)
        if self.stage is Stage.RUN:
            return ""
        absent = [index for index in range(self.job.workers) if index not in self._agents]
        if absent:
            return "waiting for worker " + ", ".join(str(index) for index in absent[:10])
        silent = [index for index, seen in sorted(self._agents.items()) if self._ticked_s - seen.at_s > SILENT_S]
        parts = []
        if silent:
            names = ", ".join(str(index) for index in silent[:10])
            parts.append(f"waiting for worker {names}, silent for over {SILENT_S:.0f} s")
        if self._losses:
            parts.append(self._losses_in_words())
        return "; ".join(parts) or "starting"

    def state(self, now: float) -> JobState:
        """What `orch status` shows."""
        reports = [seen.report for _, seen in sorted(self._agents.items())]
        chief = next((report for report in reports if report.index == 0), None)
        own = self._of_launch()
        names = {Stage.RUN: "running", Stage.OVER: self.end.state if self.end else "failed"}
        default = "restarting" if own else "waiting"
        last = self._previous or (self.attempt.previous if self.attempt else None)
        return JobState.model_validate(
            {
                "name": self.job.name,
                "launch": self.job.launch.id,
                "state": names.get(self.stage, default),
                "reason": self.reason(),
                "attempt": self.attempt.number if self.attempt else 0,
                "restarts": max(len(own) - 1, 0),
                "budget_used": own[-1].budget_used if own else 0,
                "budget_max": self.job.restarts_max,
                "step": max((report.step for report in reports), default=0),
                "total_steps": chief.total_steps if chief else None,
                "rate": chief.rate if chief else 0.0,
                "metrics": chief.metrics if chief else {},
                "workers": reports,
                "last_end": last,
                "history": restarts_of(self.records, self.job.launch.id)[-HISTORY:],
                "end": self.end,
                "since_s": now - self._stage_since_s,
            }
        )
