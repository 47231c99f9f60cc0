"""Five walks of the coordinator that a person can read: traces/*.txt. What is set in is what it answered, compared line by line.

A line is `SECONDS WHO DOES WHAT`; WHO is the UID of a worker 0, whose coordinator is meant, or `writer`:

    UID starts [launch=NAME]         a coordinator begins, with the records that are there
    UID hears INDEX UID STATE ...    a worker polls it: idle, running or leaving; attempt=, exit=, step=, result
    UID ticks until SECONDS          time passes, a second at a time
    UID asks                         what it wishes of the store is done, until it wishes for nothing
    UID looks                        it is told that somebody may have taken over
    writer commits STEP ATTEMPT      a checkpoint is there

`make golden` writes them anew; read `git diff` before you commit them.
"""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trainer.coordinator.job import Action, Append, Job, ListCommits, Probe
from trainer.coordinator.machine import Coordinator
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch
from trainer.wire.coordinator import AgentReport, Directive, ExitReport
from trainer.wire.process import Result

TRACES = sorted((Path(__file__).parent / "traces").glob("*.txt"))
WORKERS = 2
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


class Trace:
    """The coordinators of one run directory, and what is in it."""

    def __init__(self) -> None:
        self.coordinators: dict[str, Coordinator] = {}
        self.records: dict[int, AttemptRecord | EndRecord] = {}
        self.commits: list[CommitRef] = []

    def play(self, now: float, who: str, verb: str, words: list[str]) -> list[str]:
        """One line; what is said of it."""
        given = dict(word.split("=", 1) for word in words if "=" in word)
        if who == "writer":
            self.commits.append(CommitRef(step=int(words[0]), attempt=int(words[1])))
            return []
        if verb == "starts":
            launch = Launch(id=given.get("launch", "first"), started=STARTED + timedelta(seconds=now))
            job = Job("job", WORKERS, who, launch, restarts_max=5, steps_asked=10)
            known = [record for _, record in sorted(self.records.items())]
            self.coordinators[who] = Coordinator(job, known, now)
            return [self.standing(who)]
        coordinator = self.coordinators[who]
        before = coordinator.stage, coordinator.leave
        said: list[str] = []
        if verb == "hears":
            said.append(told(coordinator.poll(report(coordinator, words, given), now)))
        elif verb == "ticks":
            for second in range(int(now), int(words[1]) + 1):
                coordinator.tick(float(second))
        elif verb == "looks":
            coordinator.look(now)
        else:
            while (action := coordinator.next_action(now)) is not None:
                said.append(self.perform(coordinator, action, now))
        return said if (coordinator.stage, coordinator.leave) == before else [*said, self.standing(who)]

    def standing(self, who: str) -> str:
        coordinator = self.coordinators[who]
        leave = f", leaves with {int(coordinator.leave.code)}: {coordinator.leave.reason}" if coordinator.leave else ""
        return f"[{coordinator.stage.value}{leave}]"

    def perform(self, coordinator: Coordinator, action: Action, now: float) -> str:
        match action:
            case ListCommits(closing=closing):
                coordinator.commits_listed(self.commits, now)
                names = ", ".join(ref.name for ref in self.commits) or "none"
                return (f"closes attempt {closing}, " if closing else "") + f"lists commits: {names}"
            case Append(record=record):
                there = self.records.setdefault(record.number, record)
                coordinator.appended(there, now)
                return f"writes {record.number}: " + (
                    in_words(there) if there is record else f"taken, {in_words(there)}"
                )
            case Probe(number=number):
                found = self.records.get(number)
                coordinator.probed(found, now)
                return f"probes {number}: " + (in_words(found) if found else "nothing")


def report(coordinator: Coordinator, words: list[str], given: dict[str, str]) -> AgentReport:
    index, uid, state = words[:3]
    attempt, step = int(given.get("attempt", 0)), int(given.get("step", 0))
    end = ExitReport(attempt=attempt, code=int(given["exit"]), step=step, blocks=step > 0) if "exit" in given else None
    result = Result(step=step, total_steps=10, metrics={}, weights_sha256="x", export=None)
    return AgentReport.model_validate(
        {
            "launch": given.get("launch", coordinator.job.launch.id),
            "index": int(index),
            "uid": uid,
            "address": "10.0.0.1",
            "port": 20000,
            "state": state,
            "attempt": attempt,
            "step": step,
            "last_exit": end,
            "result": result if "result" in words else None,
        }
    )


def told(directive: Directive) -> str:
    what = f"{directive.kind} {directive.record.number}" if directive.record else directive.kind
    code = f" with {directive.code}" if directive.kind == "leave" else ""
    return f"{what}{code}" + (f": {directive.reason}" if directive.reason else "")


def in_words(record: AttemptRecord | EndRecord) -> str:
    if isinstance(record, EndRecord):
        return f"end of launch {record.launch.id}, {record.state} with {record.code}: {record.reason}"
    members = " and ".join(member.uid for member in record.members)
    restore = record.restore.name if record.restore else "nothing"
    why = f"; before it: {record.previous.reason}" if record.previous else ""
    return f"attempt of launch {record.launch.id} by {members}, from {restore}{why}"


def played(text: str) -> str:
    """The same trace with what the coordinators say now."""
    trace, lines = Trace(), []
    for line in text.splitlines():
        if line.startswith("    "):
            continue
        lines.append(line)
        if match := re.fullmatch(r"([\d.]+) (\w+) (\w+) ?(.*)", line):
            said = trace.play(float(match[1]), match[2], match[3], match[4].split())
            lines += [f"    {each}" for each in said]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_the_coordinators_answer_as_the_trace_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        path.write_text(played(text), encoding="utf-8")
    assert played(text) == path.read_text(encoding="utf-8")


def test_all_five_are_there() -> None:
    assert len(TRACES) == 5
