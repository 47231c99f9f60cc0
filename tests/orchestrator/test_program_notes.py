"""What is said of a script or a command before it starts: by its source, and in no one's way."""

from pathlib import Path

import pytest

from orchestrator.jobfile.load import load
from orchestrator.jobfile.program import notes_on
from orchestrator.jobfile.resolve import resolve_for_local
from orchestrator.preflight.check import Level
from orchestrator.preflight.program import program
from trainer.config import TrainSection

ALONE = "import keras\nmodel = keras.Sequential()\nmodel.fit(x, y)\n"
TOGETHER = "import tensorflow as tf\nstrategy = tf.distribute.MultiWorkerMirroredStrategy()\n"


def said(folder: Path, *command: str, workers: int = 2) -> list[str]:
    return [note.text for note in notes_on(TrainSection(command=list(command)), folder, workers)]


@pytest.mark.parametrize(
    "command",
    [
        ("python", "train.py"),
        ("python3.11", "-u", "-X", "dev", "train.py", "--epochs", "3"),
        ("/usr/bin/env", "python", "-W", "ignore", "train.py"),
        ("python", "-m", "train"),
        ("python", "-um", "train"),
        ("./train.py",),
        ("bash", "-c", "cd . && exec python train.py --lr 0.1"),
        ("bash", "-ec", "set -x\npython -u train.py \\\n  --lr 0.1"),
        ("bash", "run.sh"),
        ("./run",),
        ("nice", "-n", "5", "python", "train.py"),
    ],
)
def test_several_workers_of_a_program_that_knows_of_no_other_are_told_of(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "train.py").write_text(ALONE)
    (tmp_path / "run.sh").write_text("# sets TF\npython train.py\n")
    (tmp_path / "run").write_text("#!/usr/bin/env bash\npython train.py\n")
    assert said(tmp_path, *command) == [
        "train.py never looks at TF_CONFIG: each of the 2 workers trains the same, alone"
    ]
    assert said(tmp_path, *command, workers=1) == []
    (tmp_path / "train.py").write_text(TOGETHER)
    assert said(tmp_path, *command) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['TF_CONFIG']\n",
        "import json, os\nconfig = json.loads(os.environ.get('TF_CONFIG', '{}'))\n",
        TOGETHER,
        "from tensorflow import distribute\n",
        "resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()\n",
        "import jax\njax.distributed.initialize()\n",
        "import torch.distributed as dist\n",
        "rank = int(os.environ['RANK'])\n",
        "index = os.environ['ORCH_INDEX']\n",
        "import horovod.tensorflow as hvd\n",
    ],
)
@pytest.mark.parametrize("place", ["train.py", "package/setup.py"])
def test_whatever_looks_for_its_peers_is_left_alone(tmp_path: Path, source: str, place: str) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "train.py").write_text("from package import setup\n" + ALONE)
    (tmp_path / "package/setup.py").write_text("")
    assert len(said(tmp_path, "python", "train.py")) == 1
    (tmp_path / place).write_text(source)
    if place != "train.py":
        assert said(tmp_path, "python", "train.py") == []
    assert said(tmp_path, "python", place) == []


@pytest.mark.parametrize(
    "source",
    [
        "# without TF_CONFIG\n" + ALONE,
        '"""Reads no TF_CONFIG."""\n' + ALONE,
        "strategy = tf.distribute.MirroredStrategy()\n" + ALONE,
        "x = np.random.normal()  # a distribution\n" + ALONE,
    ],
)
def test_who_only_speaks_of_peers_or_uses_one_machine_trains_alone(tmp_path: Path, source: str) -> None:
    (tmp_path / "train.py").write_text(source)
    (tmp_path / "other.py").write_text(TOGETHER)  # which train.py does not import
    assert len(said(tmp_path, "python", "train.py")) == 1


def test_who_loads_modules_by_name_may_load_any_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import importlib\nimportlib.import_module('other').main()\n")
    assert said(tmp_path, "python", "train.py") == [
        "train.py never looks at TF_CONFIG: each of the 2 workers does the same, alone"
    ]
    (tmp_path / "other.py").write_text(TOGETHER)
    assert said(tmp_path, "python", "train.py") == []


@pytest.mark.parametrize(
    "command",
    [
        ("python", "absent.py"),
        ("python", "-m", "pip", "list"),
        ("python", "-c", "print(1)"),
        ("python",),
        ("bash", "-c", "echo 'unbalanced"),
        ("bash", "-c", 'echo "$TF_CONFIG"; python train.py'),
        ("torchrun", "train.py"),
        ("mpirun", "-n", "2", "python", "train.py"),
        ("a.out",),
        ("\0",),
    ],
)
def test_of_a_program_that_is_not_understood_nothing_is_said(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "train.py").write_text(ALONE)
    assert said(tmp_path, *command) == []


def test_a_script_without_fit_is_asked_whether_it_is_a_command(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import helper\nhelper.train()\n")
    (tmp_path / "helper.py").write_text("def train(): ...\n")
    train = TrainSection(script="train.py")
    (note,) = notes_on(train, tmp_path, 1)
    assert note.text.startswith("train.py never calls fit")
    assert "train: {command: [python, train.py]}" in note.remedy
    (tmp_path / "helper.py").write_text("def train():\n    model.fit(x)\n")
    assert notes_on(train, tmp_path, 2) == []


def test_a_command_that_gets_orchs_trainer_for_its_own_is_told_how_to_start(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").write_text("")
    (tmp_path / "trainer/model.py").write_text("")
    (tmp_path / "trainer/main.py").write_text("from trainer import model\n")
    (tmp_path / "main.py").write_text("from trainer import model\n")
    train = TrainSection(command=["python", "trainer/main.py", "--job-dir", "x"])
    (note,) = notes_on(train, tmp_path, 1)
    assert note.text.startswith("trainer/main.py:1: `from trainer import model` gets orch's own package trainer")
    assert note.remedy == "start it as a module, and your trainer comes first: python -m trainer.main"
    for command in (["python", "-m", "trainer.main"], ["python", "main.py"]):
        assert notes_on(TrainSection(command=command), tmp_path, 1) == []


def test_the_check_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(ALONE)
    (tmp_path / "job.yaml").write_text("name: x\ntrain: {command: [python, train.py]}\n")
    job = load(tmp_path / "job.yaml")
    config = resolve_for_local(job, directory="/runs/x", workers=2)
    found = program(config, job.folder)
    assert (found.level, found.text.partition(":")[0]) == (Level.WARNING, "train.py never looks at TF_CONFIG")
    assert "train: {script: train.py} trains its fit on all of them together" in found.remedy
    assert program(config.model_copy(update={"workers": 1}), job.folder).level is Level.OK
    assert program(config, None).level is Level.OK
    task = config.train.model_copy(update={"task": "a:B", "command": None})
    assert program(config.model_copy(update={"train": task}), job.folder).text == "task a:B"
