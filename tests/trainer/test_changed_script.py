"""Whether a script that is started again behind its end is still the one that ended; nothing of it is run to find out."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from test_commits import commit

from trainer.agent.changed import since_the_end
from trainer.checkpoint.made_with import KEY, of_job
from trainer.config import TrainConfig, TrainSection
from trainer.rundir import commits
from trainer.rundir.attempts import CommitRef, EndRecord, Launch
from trainer.rundir.open import open_store
from trainer.rundir.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("import helper\nraise SystemExit('it was run')\n")
    (tmp_path / "helper.py").write_text("x = 1\n")
    return tmp_path


def config(folder: Path, **train: object) -> TrainConfig:
    return TrainConfig(
        name="script",
        train=TrainSection.model_validate({"script": "train.py", "args": ["--epochs", "3"], "seed": 17} | train),
        run_directory=str(folder / "run"),
        task_root=str(folder),
    )


def ended(folder: Path) -> tuple[EndRecord, Store]:
    """The end of the script as it is now, with a commit."""
    store = open_store(str(folder / "run"))
    made = of_job(config(folder).train, str(folder)).model_dump(mode="json")
    last = commit(step=200, attempt=1).model_copy(update={"host_state": {KEY: made}})
    commits.write_commit(store, last)
    end = EndRecord(
        number=2, nonce="n", launch=Launch(id="one", started=NOW), created=NOW, state="succeeded", code=0,
        reason="trained 200 steps", step=200, commit=CommitRef(step=200, attempt=1),
    )  # fmt: skip
    return end, store


def test_the_same_script_has_not_changed_whatever_a_task_would_have_in_its_job_file(folder: Path) -> None:
    end, store = ended(folder)
    (folder / "helper.py").write_text("x = 1  # the same\n")
    assert since_the_end(end, config(folder), store, "", {}) == []


def test_what_changed_is_told_in_a_line_each(folder: Path) -> None:
    end, store = ended(folder)
    (folder / "helper.py").write_text("x = 2\n")
    changed = config(folder, args=["--epochs", "4"], seed=18)
    assert since_the_end(end, changed, store, "", {}) == [
        "train.seed 17 -> 18",
        "train.args ['--epochs', '3'] -> ['--epochs', '4']",
        "helper.py has changed",
    ]
