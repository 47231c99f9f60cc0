"""Goodput of a job of the cluster: read from its bucket, beside what the cluster says. The bucket is real, the cluster is not."""

from datetime import UTC, datetime
from typing import Any

import pytest
from support_one_job import OneJob

from orchestrator.cli import watch
from orchestrator.cli.main import run
from orchestrator.status.observe import status_of
from trainer.rundir.attempts import AttemptRecord, Launch, append_record
from trainer.rundir.open import open_store

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def one_job(directory: str) -> OneJob:
    return OneJob(directory, parallelism=1, suspend=True)


@pytest.fixture
def trained(gcs_url: str) -> str:
    """A run directory in a bucket: 10 s of start, 30 s of steps, all of them committed by nobody."""
    store = open_store(gcs_url)
    launch = Launch(id="one", started=STARTED)
    append_record(
        store,
        AttemptRecord(
            number=1, nonce="n", launch=launch, created=STARTED, members=[], restore=None, world_size=1, restarts=0
        ),
    )
    begun = STARTED.timestamp()
    for number, line in enumerate(
        (
            f'{{"time": {begun + 10}, "type": "phase", "phase": "train", "step": 0}}',
            f'{{"time": {begun + 40}, "type": "block", "step": 300, "seconds": 30.0, "metrics": {{}}}}',
        ),
        start=1,
    ):
        store.put(f"metrics/attempt-1/segment-{number:06d}.jsonl", line.encode() + b"\n")
    return gcs_url


def test_status_of_a_job_has_the_goodput_of_its_bucket_when_asked_for(trained: str) -> None:
    cluster: Any = one_job(trained)
    status = status_of(cluster, "digits", with_past=True)
    assert (status.state, status.goodput, status.steps_lost) == ("stopped", 0.0, 300)
    assert status_of(cluster, "digits").goodput is None


def test_goodput_of_a_job_reads_its_bucket(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "connect", lambda *_: one_job(trained))
    assert run(["goodput", "digits", "-n", "research"]) == 0
    shown = capsys.readouterr()
    assert f"run directory {trained}" in shown.err
    assert "steps lost 30.00 75.0 %" in " ".join(shown.out.split())


def test_goodput_of_a_job_on_a_volume_says_why_it_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "connect", lambda *_: one_job("/mnt/runs/digits"))
    assert run(["goodput", "digits", "-n", "research"]) == 78
    shown = capsys.readouterr().err
    assert "/mnt/runs/digits lies on a volume of the cluster" in shown
    assert "Only gs:// can" in shown
