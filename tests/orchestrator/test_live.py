"""What `status -w` prints where nothing can be redrawn: news at once, and now and then how far the job is."""

import json
import math

import pytest

from orchestrator.cli import live
from orchestrator.cli.live import Live
from orchestrator.cli.output import print_json


def shown(capsys: pytest.CaptureFixture[str], steps: list[int]) -> list[str]:
    with Live() as picture:
        for step in steps:
            picture.show([f"step {step}"], "digits: running", {"step": step}, progress=f"step {step} of 9")
    return capsys.readouterr().out.splitlines()


def test_a_job_that_only_trains_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, [1, 2, 3]) == ["digits: running (step 1 of 9)", "step 3"]


def test_how_far_it_is_is_told_again_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PROGRESS_S", 0.0)
    said = shown(capsys, [1, 2, 3])
    assert said == [f"digits: running (step {step} of 9)" for step in (1, 2, 3)] + ["step 3"]


def test_json_is_an_object_a_line_whenever_it_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(as_json=True) as picture:
        for step in (1, 1, 2):
            picture.show(["text"], "summary", {"step": step}, progress="far")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"step": 1}, {"step": 2}]


def test_numbers_that_json_cannot_hold_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"metrics": {"loss": math.nan, "val_loss": 0.5}, "rates": [math.inf, 1.0]})
    assert json.loads(capsys.readouterr().out) == {"metrics": {"loss": None, "val_loss": 0.5}, "rates": [None, 1.0]}
