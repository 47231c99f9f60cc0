"""Event files copied here for TensorBoard, and what is said where it is not installed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from orchestrator.runs.tensorboard import Mirror, program
from trainer.errors import ConfigError
from trainer.rundir.local_store import LocalStore
from trainer.rundir.open import open_store
from trainer.rundir.store import Entry


def test_event_files_are_copied_as_they_grow_and_what_was_copied_is_left(tmp_path: Path) -> None:
    run, here = tmp_path / "run", tmp_path / "here"
    events = run / "tensorboard" / "attempt-1" / "events.1"
    events.parent.mkdir(parents=True)
    events.write_bytes(b"one")
    here.mkdir()
    mirror = Mirror(open_store(str(run)), here)
    mirror.copy()
    copied = here / "attempt-1" / "events.1"
    assert copied.read_bytes() == b"one"
    with copied.open("rb") as reader:  # as TensorBoard reads it
        assert reader.read() == b"one"
        events.with_name("new").write_bytes(b"onetwo")
        events.with_name("new").rename(events)
        mirror.copy()
        assert reader.read() == b"two", "the same file has grown"
    mirror.copy()
    assert copied.read_bytes() == b"onetwo"


class OfAConsole(LocalStore):
    """What a local directory cannot hold, and a bucket can."""

    def list(self, prefix: str) -> list[Entry]:
        names = [prefix, f"{prefix}attempt-1/", f"{prefix}../../x"]
        return [*(Entry(name, 0, 1, None) for name in names), *super().list(prefix)]


def test_objects_that_are_no_event_files_are_passed_over(tmp_path: Path) -> None:
    events = tmp_path / "run/tensorboard/attempt-1/events.1"
    events.parent.mkdir(parents=True)
    events.write_bytes(b"one")
    here = tmp_path / "a/b/here"
    here.mkdir(parents=True)
    Mirror(OfAConsole(tmp_path / "run"), here).copy()
    assert (here / "attempt-1/events.1").read_bytes() == b"one"
    assert sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file()) == [here / "attempt-1/events.1"]


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        program()
    assert "pip install tensorboard" in str(caught.value.remedy)
