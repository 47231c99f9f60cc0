"""The ledger accounts for every microsecond and every step, whatever happened, whatever was lost, whatever the clocks say."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord, Launch
from trainer.rundir.history import broken_off, lost_in_words, restarts_of
from trainer.rundir.ledger import OF_PHASE, WITHIN, Ledger, Row, account
from trainer.rundir.lineage import NoGoodCommit, line, restore_point
from trainer.rundir.metrics import Sign, parse, save_error
from trainer.wire.process import Phase

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = {"import": Row.IMPORT, "rendezvous": Row.RENDEZVOUS, "restore": Row.RESTORE, "compile": Row.COMPILE}
Unit = tuple[int, int]
"""One step as it was done: (attempt, step)."""


def at(microseconds: int) -> datetime:
    return START + timedelta(microseconds=microseconds)


@dataclass
class History:
    """A job that never ran: what it left behind, and where its time really went."""

    random: random.Random
    records: list[AttemptRecord | EndRecord] = field(default_factory=list)
    signs: dict[int, list[Sign]] = field(default_factory=dict)
    commits: dict[CommitRef, list[Unit]] = field(default_factory=dict)
    state: list[Unit] = field(default_factory=list)
    done: list[tuple[Unit, int]] = field(default_factory=list)
    """Every step that was done, and its microseconds."""
    truth: dict[Row, int] = field(default_factory=lambda: dict.fromkeys(Row, 0))
    clock: int = 0
    skew: int = 0
    """What the clock of the chief's machine is ahead."""
    launches: int = 1
    bad: list[str] = field(default_factory=list)
    exact: bool = True
    """Nothing was lost, and all clocks agree: the truth can be known."""
    end_state: str = "running"

    def spend(self, row: Row, most: int = 5_000_000) -> int:
        span = self.random.randrange(1, most)
        self.truth[row] += span
        self.clock += span
        return span

    def say(self, attempt: int, kind: str, **facts: Any) -> None:
        time_s = START.timestamp() + (self.clock + self.skew) / 1e6
        self.signs.setdefault(attempt, []).append(Sign(time=time_s, type=kind, **facts))

    def say_measured(self, attempt: int, kind: str, span: int, **facts: Any) -> None:
        """The end of a phase that the process timed. The agent may hear of its beginning as late as of its end."""
        self.say(attempt, kind, step=len(self.state), seconds=span / 1e6, **facts)
        if self.random.random() < 0.3:
            beginning, end = self.signs[attempt][-2:]
            self.signs[attempt][-2] = beginning.model_copy(update={"time": end.time})

    @property
    def launch(self) -> Launch:
        return Launch(id=f"launch-{self.launches}", started=START)

    def begin(self, previous: AttemptEnd | None, restarts: int) -> AttemptRecord | None:
        number = len(self.records) + 1
        restore = restore_point(self.records, self.commits, bad=self.bad)
        if isinstance(restore, NoGoodCommit):
            return None
        self.state = list(self.commits[restore]) if restore else []
        record = AttemptRecord(
            number=number,
            nonce="n",
            launch=self.launch,
            created=at(self.clock + self.skew),
            members=[],
            restore=restore,
            world_size=2,
            bad=list(self.bad),
            restarts=restarts,
            previous=previous,
        )
        self.records.append(record)
        return record

    def attempt(self, record: AttemptRecord, *, last: bool) -> None:
        """Let it run for a while: `last` runs to the end of training."""
        chance, number = self.random, record.number
        self.spend(Row.START)
        for phase, row in ROWS.items():
            self.say(number, "phase", phase=phase, step=len(self.state) if phase == "compile" else 0)
            if not last and chance.random() < 0.1:
                return
            self.spend(row)
        turns = chance.randrange(1, 8)
        for turn in range(turns):
            step = len(self.state)
            self.say(number, "phase", phase="train", step=step)
            steps = chance.randrange(1, 20)
            span = chance.randrange(steps, 2_000_000)
            self.clock += span
            units = [(number, step + index + 1) for index in range(steps)]
            # As the ledger divides: what is kept of a block is kept whole, since commits lie between blocks.
            self.done += [(unit, span if index == 0 else 0) for index, unit in enumerate(units)]
            self.state += units
            if chance.random() < 0.9 or turn == turns - 1:  # else the agent was too busy to hear of it
                self.say(number, "block", step=len(self.state), seconds=span / 1e6)
            if chance.random() < 0.3:
                self.say(number, "phase", phase="evaluate", step=len(self.state))
                self.say_measured(number, "evaluated", self.spend(Row.EVALUATION))
            if chance.random() < 0.5:
                self.save(number)
            if chance.random() < 0.2:
                self.say(number, "alive", step=len(self.state))

    def save(self, number: int, why: str = "interval") -> None:
        self.say(number, "phase", phase="save", detail=why, step=len(self.state))
        self.say_measured(number, "stalled", self.spend(Row.FINISH if why == "last" else Row.STALL, 50_000), why=why)
        if self.random.random() < 0.9:
            self.commits[CommitRef(step=len(self.state), attempt=number)] = list(self.state)

    def ends(self, record: AttemptRecord) -> tuple[AttemptEnd, bool]:
        """The attempt's end, and whether its agent lived to tell of it."""
        chance, number = self.random, record.number
        hang = chance.random() < 0.3
        training = self.signs.get(number, [])[-1].phase not in ROWS if self.signs.get(number) else False
        if hang:
            self.spend(Row.HANG, 15_000_000)
        elif training:
            self.say(number, "phase", phase="train", step=len(self.state))
            self.spend(Row.LOST)  # a block that was not finished
        code = 76 if hang else 137
        told = chance.random() < 0.7
        if told:
            self.say(number, "ended", code=code, step=len(self.state))
        else:
            self.exact = False
            kept = self.signs.get(number, [])
            del kept[chance.randrange(len(kept) + 1) :]
        end = AttemptEnd(attempt=number, code=code, reason="worker 1: killed", step=len(self.state), worker=1)
        return end.model_copy(update={"at": at(self.clock + self.skew)}), told


def history(seed: int) -> History:
    chance = random.Random(seed)
    run = History(chance)
    previous: AttemptEnd | None = None
    restarts = 0
    zombie: CommitRef | None = None
    for _ in range(chance.randrange(1, 7)):
        record = run.begin(previous, restarts)
        if record is None:
            break
        if zombie is not None:
            # A process of the attempt before wakes up and commits. Nothing may rest on it.
            run.commits[zombie] = []
        last = chance.random() < 0.2
        run.attempt(record, last=last)
        if last:
            finish(run, record, chance)
            if chance.random() < 0.5 or run.end_state == "running":
                return run
            previous, restarts = None, 0
            between_launches(run)
            continue
        previous, told = run.ends(record)
        if chance.random() < 0.2:
            # Another launch follows: nobody is left who knows how the last one ended.
            run.exact = run.exact and told
            between_launches(run)
            previous = AttemptEnd(attempt=record.number, code=143, reason="the launch before this one stopped here")
            run.end_state, restarts = "stopped", 0
        else:
            run.spend(Row.DOWN)
            restarts += 1
        if chance.random() < 0.2:
            run.skew += chance.randrange(-20_000_000, 20_000_000)
            run.exact = False
        if chance.random() < 0.1 and (whole := line(run.records, run.commits)):
            run.bad.append(whole[0].name)
        zombie = CommitRef(step=len(run.state) + 5, attempt=record.number) if chance.random() < 0.2 else None
    # The last attempt ended, and nothing followed.
    run.end_state = "stopped"
    return run


def finish(run: History, record: AttemptRecord, chance: random.Random) -> None:
    if chance.random() < 0.3:
        run.end_state = "running"
        return
    run.save(record.number, why="last")
    run.commits[CommitRef(step=len(run.state), attempt=record.number)] = list(run.state)
    run.say(record.number, "phase", phase="export", step=len(run.state))
    run.spend(Row.FINISH)
    run.say(record.number, "ended", code=0, step=len(run.state))
    run.spend(Row.FINISH)
    facts: dict[str, Any] = {"state": "succeeded", "code": 0, "reason": "", "attempts": record.number}
    run.records.append(
        EndRecord(
            number=len(run.records) + 1, nonce="n", launch=record.launch, created=at(run.clock + run.skew),
            step=len(run.state), **facts,
        )
    )  # fmt: skip
    run.end_state = "succeeded"


def between_launches(run: History) -> None:
    run.spend(Row.STOPPED, 100_000_000)
    run.launches += 1


def judged(run: History) -> tuple[Ledger, list[Unit]]:
    """The ledger, and the steps that the state of the job rests on."""
    running = run.end_state == "running"
    commits = line(run.records, run.commits)
    alive = running or run.end_state == "succeeded"
    kept = run.state if alive else run.commits[commits[0]] if commits else []
    ledger = account(
        run.records,
        run.signs,
        now_s=START.timestamp() + (run.clock + run.skew) / 1e6 if running else None,
        committed=commits[0].step if commits else 0,
    )
    assert ledger is not None
    return ledger, list(kept)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_every_microsecond_and_every_step_is_accounted_for_once(seed: int) -> None:
    run = history(seed)
    ledger, kept = judged(run)
    assert min(ledger.microseconds.values()) >= 0
    assert sum(ledger.microseconds.values()) == round(ledger.until_s * 1e6)
    assert ledger.until_s >= 0
    if isinstance(run.records[-1], EndRecord):
        # Clocks that went back make no time: the end is the latest moment that any record names.
        latest = max(record.created for record in run.records)
        assert ledger.began + timedelta(microseconds=round(ledger.until_s * 1e6)) == latest
    assert ledger.steps_kept == len(kept)
    assert ledger.goodput is None or 0 <= ledger.goodput <= 1
    if not run.exact:
        return
    assert ledger.steps_lost == len(run.done) - len(kept)
    sound = set(kept)
    for unit, span in run.done:
        run.truth[Row.KEPT if unit in sound else Row.LOST] += span
    if run.end_state == "stopped":
        run.truth[Row.DOWN] = ledger.microseconds[Row.DOWN]  # after the last end nobody wrote any more
        run.truth[Row.STOPPED] = ledger.microseconds[Row.STOPPED]
    assert {row: ledger.microseconds[row] for row in Row} == run.truth


# --- single histories, told in full

LAUNCH = Launch(id="one", started=START)


def record(number: int, second: float, *, restore: CommitRef | None = None, **facts: Any) -> AttemptRecord:
    facts = {"launch": LAUNCH, "restarts": number - 1} | facts
    return AttemptRecord(
        number=number, nonce="n", created=at(round(second * 1e6)), members=[], restore=restore, world_size=1, **facts
    )


def ended(attempt: int, second: float | None, **facts: Any) -> AttemptEnd:
    moment = None if second is None else at(round(second * 1e6))
    facts = {"code": 137, "reason": "worker 1: killed (SIGKILL)", "worker": 1} | facts
    return AttemptEnd(attempt=attempt, at=moment, **facts)


def sign(second: float, kind: str, **facts: Any) -> Sign:
    return Sign(time=START.timestamp() + second, type=kind, **facts)


def trained(second: float, *steps: int) -> list[Sign]:
    """Training began at `second`, and a block was done each second from there."""
    blocks = [sign(second + 1 + index, "block", step=step, seconds=1.0) for index, step in enumerate(steps)]
    return [sign(second, "phase", phase="train"), *blocks]


def rows(ledger: Ledger | None) -> dict[str, float]:
    assert ledger is not None
    return {row.value: round(ledger.seconds(row), 3) for row in Row if ledger.microseconds[row]}


def test_the_last_signs_of_a_killed_agent_are_made_up_for_by_the_next_record() -> None:
    """Told up to step 200, done up to step 300 as its peer knows, restored at 250: 50 of the 100 untold steps are kept."""
    records = [record(1, 0), record(2, 10, restore=CommitRef(step=250, attempt=1), previous=ended(1, 9, step=300))]
    signs = {1: trained(1, 100, 200), 2: [sign(11, "phase", phase="import"), sign(12, "alive")]}
    ledger = account(records, signs, unseen_s=2.0)
    assert rows(ledger) == {
        "start": 2.0,
        "steps kept": 2.5,
        "steps lost": 0.5,
        "unknown": 1.0,  # as old as its last sign may have been when it died
        "down": 5.0,
        "import": 1.0,
    }
    assert ledger is not None
    assert (ledger.steps_kept, ledger.steps_lost, ledger.restarts) == (250, 50, 1)


def test_a_frozen_worker_shows_as_hang_and_not_as_steps() -> None:
    records = [record(1, 0), record(2, 15, restore=CommitRef(step=100, attempt=1), previous=ended(1, 14, code=76))]
    signs = {1: [*trained(1, 100, 200), sign(8, "alive", step=200), sign(13, "ended", code=75, step=200)]}
    assert rows(account(records, signs)) == {
        "start": 1.0,
        "steps kept": 1.0,
        "steps lost": 1.0,
        "hang": 10.0,
        "down": 2.0,
    }


def test_time_between_two_launches_is_no_part_of_the_total() -> None:
    other = Launch(id="two", started=START)
    records = [record(1, 0), record(2, 1000, restore=CommitRef(step=200, attempt=1), launch=other, restarts=0)]
    signs = {1: [*trained(1, 100, 200), sign(3, "ended", code=143, step=200)], 2: trained(1001, 300)}
    ledger = account(records, signs, now_s=START.timestamp() + 1002, unseen_s=6.0)
    assert rows(ledger) == {"start": 2.0, "steps kept": 3.0, "stopped": 997.0}
    assert ledger is not None
    assert (ledger.total_s, ledger.goodput, ledger.restarts) == (5.0, 0.6, 0)


def test_what_lay_before_a_fresh_start_does_not_count() -> None:
    other = Launch(id="two", started=START)
    records = [record(1, 0), record(2, 100, fresh=True, launch=other, restarts=0)]
    ledger = account(records, {1: trained(1, 100), 2: trained(101, 50)}, committed=0)
    assert rows(ledger) == {"start": 1.0, "steps lost": 1.0}
    assert ledger is not None
    assert (ledger.first_attempt, ledger.steps_lost, ledger.steps_kept) == (2, 50, 0)


def test_a_script_has_no_goodput_and_an_older_version_told_of_blocks_alone() -> None:
    script = {1: [sign(1, "phase", phase="train", detail="command"), sign(5, "ended", code=0)]}
    ledger = account([record(1, 0)], script)
    assert ledger is not None
    assert (rows(ledger), ledger.goodput) == ({"start": 1.0, "script": 4.0}, None)
    older = {1: [sign(10, "block", step=5, seconds=2.0), sign(11, "block", step=10, seconds=1.0)]}
    assert rows(account([record(1, 0)], older)) == {"start": 8.0, "steps kept": 3.0}


def test_lines_of_a_script_around_its_fit_are_told_and_each_phase_has_its_row() -> None:
    signs = [
        sign(1, "phase", phase="script"),
        *trained(3, 50),
        sign(55, "phase", phase="script"),
        sign(57, "ended", code=0),
    ]
    ledger = account([record(1, 0)], {1: signs})
    assert ledger is not None
    assert rows(ledger)["outside of fit"] >= 4.0
    assert "unknown" not in rows(ledger)
    assert {phase.value for phase in Phase} == {*OF_PHASE, "train", *WITHIN} - {"", "command"}


def test_clocks_that_disagree_make_no_time_and_take_none() -> None:
    """The chief's clock is an hour ahead, its successor's an hour behind."""
    records = [record(1, 0), record(2, -3600, previous=ended(1, 7200)), record(3, 20, previous=ended(2, -3599))]
    ledger = account(records, {1: trained(3600, 100), 2: trained(-3599, 50)}, now_s=START.timestamp() + 30)
    assert ledger is not None
    assert (ledger.until_s, ledger.total_s) == (30.0, 30.0)
    assert (ledger.steps_kept, ledger.steps_lost) == (0, 150)


def test_restarts_say_what_was_lost_or_that_nobody_knows() -> None:
    records = [
        record(1, 0),
        record(2, 10, restore=CommitRef(step=300, attempt=1), previous=ended(1, 9, step=350, blocks=True)),
        record(3, 20, restore=CommitRef(step=300, attempt=1), previous=ended(2, 19, code=75, worker=0)),
        record(4, 30, launch=Launch(id="two", started=START), previous=ended(3, None)),
    ]
    known = restarts_of(records, "one")
    assert [(item.attempt, item.step, item.resumed_step, item.steps_lost) for item in known] == [
        (1, 350, 300, 50),
        (2, None, 300, None),
    ]
    assert [lost_in_words(item) for item in known] == [
        "went on from step 300, 50 steps lost",
        "went on from step 300, steps lost unknown",
    ]
    told = restarts_of(records, "one", told={2: 301})
    assert lost_in_words(told[1]) == "went on from step 300, 1 step lost"
    assert restarts_of(records, "two") == []


def test_a_restart_of_a_command_loses_no_steps_that_anybody_knows_of() -> None:
    records = [record(1, 0, command=True), record(2, 10, command=True, previous=ended(1, 9, code=137, worker=0))]
    (restart,) = restarts_of(records, "one")
    assert (restart.steps_lost, lost_in_words(restart, "going on")) == (None, "going on from its start")
    later = Launch(id="two", started=START)
    (killed,) = broken_off([records[0], record(2, 10, command=True, launch=later)], {1: []})
    assert lost_in_words(killed, "the next one went on") == "the next one went on from its start"


def test_launches_that_were_killed_are_told_since_the_last_end_in_order() -> None:
    one, two, three, four = (Launch(id=name, started=START) for name in ("one", "two", "three", "four"))
    records: list[AttemptRecord | EndRecord] = [
        record(1, 0, launch=one),
        record(2, 10, launch=two, restore=CommitRef(step=30, attempt=1)),
        record(3, 20, launch=three, restore=CommitRef(step=40, attempt=2)),
        record(4, 30, launch=three, restore=CommitRef(step=60, attempt=3), previous=ended(3, 29, step=61)),
        record(5, 40, launch=four, restore=CommitRef(step=90, attempt=4)),
    ]
    signs = {number: trained(number * 10, 20 * number + 10) for number in (1, 2, 3, 4)}
    signs[1].append(Sign(time=START.timestamp() + 9, type="ended", code=143))
    stopped = broken_off(records[:2], signs)
    assert stopped == [], "it was stopped by Ctrl-C"
    found = broken_off(records, signs)
    assert [(item.attempt, item.step, item.resumed_step, item.steps_lost) for item in found] == [
        (2, 50, 40, 10),
        (4, 90, 90, 0),
    ]
    assert found[0].at == datetime.fromtimestamp(signs[2][-1].time, UTC)
    # Where nobody wrote anything, it is known when it began.
    [unknown] = broken_off(records[1:3], {})
    assert (unknown.at, unknown.step, unknown.steps_lost) == (records[1].created, None, None)
    fresh = records[4].model_copy(update={"fresh": True})
    assert broken_off([*records[:4], fresh], signs) == []


def test_a_save_fails_until_another_one_succeeds_and_torn_lines_are_passed_over() -> None:
    lines = [
        b'{"time": 1.0, "type": "save_trouble", "step": 5, "error": "no space left"}',
        b'{"time": 2.0, "type": "block", "step": 9, "seconds": 1.0, "metrics": {"loss": NaN}}',
        b'{"time": 3.0, "type": "blo',
        b'{"time": 4.0, "type": "saved", "commit": {"step": 5, "attempt": 1}, "size_bytes": 1, "seconds": 3.0}',
    ]
    signs = parse(b"\n".join(lines))
    assert [item.type for item in signs] == ["save_trouble", "block", "saved"]
    assert save_error(signs[:2]) == "no space left"
    assert save_error(signs) == ""
