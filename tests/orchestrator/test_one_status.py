"""The same job is told in the same sentences, whoever is asked: the cluster, its run directory, or the `orch run` that ran it."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support_one_job import OneJob

from orchestrator.cli import watch
from orchestrator.cli.main import run
from orchestrator.local.result import result_of
from orchestrator.local.run import LocalRun
from orchestrator.runs.view import read_run
from orchestrator.status import follow
from orchestrator.status.model import Moment
from orchestrator.status.observe import status_of
from trainer.config import TrainConfig
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord, Launch, append_record
from trainer.rundir.open import open_store
from trainer.rundir.store import Store

GOLDEN = Path(__file__).parent / "golden" / "status.txt"
"""What is said of each of these jobs, to be read by people. Written anew by `make golden`."""
START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = """
name: digits
train: {task: "trainer.tasks.digits:Digits", steps: 500}
"""


def one_job(directory: str) -> OneJob:
    return OneJob(directory, parallelism=2, suspend=False, template={"spec": {"containers": [{"name": "trainer"}]}})


def ended(attempt: int, code: int, reason: str, **facts: Any) -> AttemptEnd:
    at = START + timedelta(seconds=10 * attempt + 8)
    return AttemptEnd(attempt=attempt, code=code, reason=reason, worker=1, at=at, blocks=True, step=450, **facts)


KILLED = ended(2, 137, "worker 1: killed (SIGKILL) (step 450)")
HUNG = ended(2, 76, "worker 1 hung: silent for 30 s in phase train (step 450)", stacks=True)
STARVED = ended(2, 137, "worker 1: killed (SIGKILL): out of memory", memory_full=True)
RAISED = ended(2, 70, "worker 1: task error: ValueError: bad label (step 450)")
USED_UP = "restarts.max (0) is used up; the last attempt ended with code"

JOBS: dict[str, dict[str, Any]] = {
    "a launch before it was killed, and a worker of its own": {
        "launches": ["killed", "own", "own"],
        "ends": {3: KILLED},
        "state": "succeeded",
        "code": 0,
        "reason": "trained 500 steps",
        "metrics": {"val_accuracy": 0.97, "val_loss": 0.1},
        "export": "{url}/export/attempt-3/model.keras",
        "load": "from trainer.exported import load; model = load('{url}')",
    },
    "saves met trouble": {
        "launches": ["own"],
        "signs": [{"type": "save_trouble", "step": 300, "error": "503"}],
        "state": "succeeded",
        "code": 0,
        "reason": "trained 500 steps",
        "metrics": {"loss": 0.25},
    },
    "the task raised": {
        "launches": ["own", "own"],
        "ends": {2: ended(1, 75, "worker 0 fell silent")},
        "state": "failed",
        "code": 70,
        "reason": RAISED.reason,
        "previous": RAISED,
        "traceback": "Traceback (most recent call last):\n  ...\nValueError: bad label",
    },
    "a worker hung": {
        "launches": ["own", "own"],
        "ends": {2: ended(1, 76, "worker 1 hung: stopped by a signal (SIGSTOP)", stacks=False)},
        "state": "failed",
        "code": 77,
        "reason": f"{USED_UP} 76: {HUNG.reason}",
        "previous": HUNG,
    },
    "a worker had too little memory": {
        "launches": ["own", "own"],
        "state": "failed",
        "code": 77,
        "reason": f"{USED_UP} 137: {STARVED.reason}",
        "previous": STARVED,
    },
    "every checkpoint was damaged": {
        "launches": ["own"],
        "state": "failed",
        "code": 78,
        "reason": "no usable checkpoint is left: damaged are step-400.attempt-1",
    },
}


def leave(store: Store, launches: list[str], *, ends: dict[int, AttemptEnd], signs: list[dict[str, Any]]) -> None:
    """An attempt of each of these launches, ten seconds apart, and what its chief's agent wrote."""
    for number, name in enumerate(launches, 1):
        created = START + timedelta(seconds=10 * number)
        restarts = launches[: number - 1].count(name)
        record = AttemptRecord(
            number=number, nonce="n", launch=Launch(id=name, started=START), created=created, members=[], world_size=2,
            restore=CommitRef(step=400, attempt=number - 1) if number > 1 else None, restarts=restarts,
            previous=ends.get(number),
        )  # fmt: skip
        append_record(store, record)
        told = [{"type": "phase", "phase": "train"}, {"type": "block", "step": 450, "seconds": 5.0}, *signs]
        if name == "own":
            told.append({"type": "ended", "step": 450})
        lines = [{"time": created.timestamp() + 1 + second, **sign} for second, sign in enumerate(told)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        store.put(f"metrics/attempt-{number}/segment-000001.jsonl", text.encode())


def finish(store: Store, facts: dict[str, Any]) -> None:
    number = len(facts["launches"]) + 1
    same = {name: facts[name] for name in facts.keys() - {"launches", "ends", "signs"}}
    same |= {name: text.format(url=store.url) for name in ("export", "load") if (text := facts.get(name))}
    count = facts["launches"].count("own")
    end = {
        "number": number, "nonce": "n", "launch": Launch(id="own", started=START), "step": 500, "total_steps": 500,
        "created": START + timedelta(seconds=10 * number), "attempts": number - 1, "restarts": count - 1,
        "weights_sha256": "ab" * 32 if facts["state"] == "succeeded" else None,
    }  # fmt: skip
    append_record(store, EndRecord.model_validate(end | same))


@pytest.fixture
def url(gcs_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run directory that a job of a cluster and an `orch run` can have alike."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    url = gcs_url.rpartition("/")[0] + "/digits"
    config = TrainConfig.model_validate(
        {"name": "digits", "train": {"task": "trainer.tasks.digits:Digits", "steps": 500}, "run_directory": url}
    )

    def as_it_ended(_run: LocalRun) -> Any:
        view = read_run(url)
        assert view.end is not None
        return result_of(view, config, launch="own", stop_signal=None, gave_up="", codes=[view.end.code] * 2, last=None)

    monkeypatch.setattr(LocalRun, "run", as_it_ended)
    monkeypatch.setattr(watch, "connect", lambda *_: one_job(url))
    return url


@pytest.mark.parametrize("case", JOBS)
def test_a_job_is_told_alike_by_the_cluster_its_run_directory_and_its_run(
    case: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str, target: str) -> str:
        run(arguments)
        text = capsys.readouterr().out
        # What commands call the job is all that may differ.
        for command in ("goodput", "logs"):
            text = text.replace(f"orch {command} {target}", f"orch {command} TARGET")
        return text.replace(url, "gs://bucket/digits")

    facts = JOBS[case]
    leave(open_store(url), facts["launches"], ends=facts.get("ends", {}), signs=facts.get("signs", []))
    finish(open_store(url), facts)
    status = said("status", "digits", "-n", "research", target="digits")
    assert said("status", url, target=url) == status
    last = said("run", "job.yaml", "--directory", url, target=url)
    sentences = {line.strip() for line in status.splitlines()}
    assert {line.strip() for line in last.splitlines()} <= sentences
    found = f"== {case}\n-- orch status\n{status}-- orch run\n{last}"

    golden = dict(part.split("\n", 1) for part in GOLDEN.read_text().split("== ")[1:]) if GOLDEN.exists() else {}
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        golden[case] = found.split("\n", 1)[1]
        GOLDEN.write_text("".join(f"== {name}\n{golden[name]}" for name in JOBS if name in golden))
    assert found == f"== {case}\n{golden.get(case)}", "the sentences changed: `make golden`, and read the difference"


def test_json_has_the_same_fields_from_all_three(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = JOBS["a worker hung"]
    leave(open_store(url), facts["launches"], ends=facts["ends"], signs=[])
    finish(open_store(url), facts)
    told = []
    for command in (["status", "digits", "-n", "research"], ["status", url], ["run", "job.yaml", "--directory", url]):
        run([*command, "-o", "json"])
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] == told[2]


def test_a_watch_ends_alike_on_the_cluster_and_on_a_run_directory(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = JOBS["a worker hung"]
    leave(open_store(url), facts["launches"], ends=facts["ends"], signs=[])
    finish(open_store(url), facts)
    monkeypatch.setattr(
        follow, "follow", lambda cluster, name: iter([Moment(status_of(cluster, name, with_past=True))])
    )
    told = []
    for target in (["digits", "-n", "research"], [url]):
        assert run(["status", *target, "-w", "-o", "json"]) == 77
        told.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert told[0] == told[1]
    assert [moment["away"] for moment in told[0]] == [""]


def test_a_run_that_was_stopped_and_its_run_directory_say_the_same(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(tmp_path / "runs/digits")
    leave(open_store(here), ["own"], ends={}, signs=[{"type": "ended", "code": 143, "step": 450}])
    config = TrainConfig.model_validate({"name": "digits", "train": {"command": ["true"]}, "run_directory": here})
    stopped = result_of(read_run(here), config, launch="own", stop_signal=2, gave_up="", codes=[143], last=None)
    monkeypatch.setattr(LocalRun, "run", lambda _run: stopped)
    assert run(["run", "job.yaml"]) == 130
    last = capsys.readouterr().out.splitlines()
    assert run(["status", "runs/digits"]) == 0
    assert set(last) <= {line.strip() for line in capsys.readouterr().out.splitlines()}
    assert last[0] == "digits: stopped at step 0: stopped (no checkpoint yet); run again to go on"
