"""`orch accelerators` shows what a job file may name."""

import json

import pytest

from orchestrator.cli.main import run
from orchestrator.jobfile.accelerators import GPUS, TPU_GENERATIONS, every


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["accelerators", *arguments]) == 0
    return capsys.readouterr().out


def test_without_a_name_every_kind_is_there_and_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    for name in GPUS:
        assert f"{name}:N" in text
    for generation in TPU_GENERATIONS:
        assert f"orch accelerators {generation.prefix}" in text
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize(("name", "count"), [("v5litepod", 9), ("tpu-v6e-slice", 9), ("v5litepod-8", 2), ("v4-512", 2)])
def test_a_name_of_several_shapes_shows_each(capsys: pytest.CaptureFixture[str], name: str, count: int) -> None:
    assert len(printed(capsys, name).splitlines()) == 1 + count


def test_one_entry_shows_what_its_pods_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "v5litepod-16")
    assert "cloud.google.com/gke-tpu-topology=4x4" in text
    assert "google.com/tpu: 4" in text
    assert "4, one a host" in text


def test_json_is_the_whole_table(capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads(printed(capsys, "-o", "json"))
    assert len(entries) == len(list(every()))
    (one,) = json.loads(printed(capsys, "nvidia-l4:2", "-o", "json"))
    assert one["node_selector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert (one["resource"], one["chips_per_host"]) == ("nvidia.com/gpu", 2)


def test_a_wrong_name_lists_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["accelerators", "v5lite-16"]) == 78
    assert "did you mean v5litepod-16" in capsys.readouterr().err
