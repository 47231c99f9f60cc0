"""Scripts with model.fit, run as they are: what plain Python trains, to the bit, killed anywhere, and on two workers."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support_worker import Block, Evaluated, Run, run

from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.keras import places
from trainer.rundir.attempts import CommitRef

SCRIPTS = Path(__file__).parent / "scripts"

pytestmark = pytest.mark.slow


def told(output: str) -> dict[str, Any]:
    """What the script printed at its end."""
    lines = [line for line in output.splitlines() if line.startswith("TOLD ")]
    assert lines, output[-3000:]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("TOLD "))
    return found


def plain(folder: Path, *arguments: str, script: str = "two_fits.py") -> dict[str, Any]:
    """The script by plain Python."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, "--files", folder, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return told(done.stdout)


def keep(current: Run, snapshot: Any) -> Any:
    saved = current.commit(snapshot)
    current.kept = CommitRef(step=snapshot.step, attempt=current.attempt)  # type: ignore[attr-defined]
    return saved


def job(
    folder: Path,
    *arguments: str,
    attempt: int = 1,
    restore: CommitRef | None = None,
    workers: int = 1,
    script: str = "two_fits.py",
) -> Any:
    train = {"script": script, "args": ["--files", str(folder / "files"), *arguments]}
    return run(
        folder,
        train,
        attempt=attempt,
        restore=restore,
        workers=workers,
        task_root=SCRIPTS,
        checkpoint={"every": 7},
        answer=keep,
    )


def finished(folder: Path, *arguments: str, workers: int = 1, script: str = "two_fits.py") -> Run:
    """The job, started again until it is done."""
    restore = None
    for attempt in range(1, 4):
        options: dict[str, Any] = {"attempt": attempt, "restore": restore, "workers": workers, "script": script}
        with job(folder, *arguments, **options) as current:
            current.wait(until=lambda now: any(worker.closed and worker.process.poll() for worker in now.workers))
            if all(worker.closed for worker in current.workers) and current.wait() == [0] * workers:
                return current  # type: ignore[no-any-return]
            killed = [worker for worker in current.workers if worker.process.poll() == -signal.SIGKILL]
            assert killed, current.workers[0].output()
            restore = getattr(current, "kept", restore)
    raise AssertionError("it never came to its end")


def test_a_script_trains_what_plain_python_trains_and_says_so(tmp_path: Path) -> None:
    expected = plain(tmp_path / "plain")
    with job(tmp_path / "job") as current:
        assert current.wait() == [0], current.workers[0].output()
    worker = current.workers[0]
    assert told(worker.output()) == expected
    assert worker.result.step == worker.of(Block)[-1].step
    assert worker.of(Block)[0].total_steps == 75
    assert worker.of(Evaluated)[0].metrics["val_loss"] == expected["first"]["val_loss"][0]
    assert worker.result.metrics["loss"] == expected["second"]["loss"][-1]
    loaded = keras.models.load_model(worker.result.export)
    saved = keras.models.load_model(tmp_path / "job" / "files" / "model.keras")
    assert all(map(np.array_equal, loaded.get_weights(), saved.get_weights()))
    assert (tmp_path / "job/files/log.csv").read_text() == (tmp_path / "plain/log.csv").read_text()


@pytest.mark.soak
@pytest.mark.parametrize("where", ["batch", "validation", "callback", "between", "second"])
def test_killed_anywhere_it_goes_on_at_the_next_batch(tmp_path: Path, where: str) -> None:
    expected = plain(tmp_path / "plain")
    last = finished(tmp_path / "job", "--die", where)
    assert told(last.workers[0].output()) == expected
    assert last.attempt == 2
    assert (tmp_path / "job/files/log.csv").read_text() == (tmp_path / "plain/log.csv").read_text()


KINDS = (
    "arrays", "batch-shuffle", "arrays-steps", "dataset", "repeated", "unknown-length", "several-steps", "generator", "pydataset"
)  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_with_every_kind_of_data_it_goes_on_as_plain_python_would_have(tmp_path: Path, kind: str) -> None:
    die = "7" if kind == "several-steps" else "17"  # calls of the training function
    last = finished(tmp_path / "job", "--data", kind, "--die", die, script="data_kinds.py")
    assert last.attempt == 2
    assert told(last.workers[0].output()) == plain(tmp_path / "plain", "--data", kind, script="data_kinds.py")


@pytest.mark.soak
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "generator"])
def test_with_every_kind_of_data_two_workers_train_what_one_does(tmp_path: Path, kind: str) -> None:
    die = "7" if kind == "several-steps" else "17"
    last = finished(tmp_path / "job", "--data", kind, "--die", die, workers=2, script="data_kinds.py")
    one = plain(tmp_path / "plain", "--data", kind, script="data_kinds.py")
    two = told(last.workers[0].output())
    if kind == "unknown-length":  # Keras runs half a step more at each epoch's end, on one device
        assert one["iterations"] == two["iterations"] + 4
        return
    assert two["sizes"] == pytest.approx(one["sizes"], rel=1e-5)
    assert two["history"]["loss"] == pytest.approx(one["history"]["loss"], rel=1e-5)


@pytest.mark.soak
def test_what_a_script_leaves_unseeded_is_the_same_with_each_start(tmp_path: Path) -> None:
    undisturbed = finished(tmp_path / "undisturbed", "--unseeded")
    killed = finished(tmp_path / "killed", "--unseeded", "--die", "batch")
    assert told(killed.workers[0].output()) == told(undisturbed.workers[0].output())
    assert "not repeated" not in killed.workers[0].output()


@pytest.mark.soak
@pytest.mark.soak_ci
def test_two_workers_train_what_one_process_trains_and_survive(tmp_path: Path) -> None:
    one = plain(tmp_path / "plain", "--dropout", "0")
    two = finished(tmp_path / "two", "--dropout", "0", workers=2)
    killed = finished(tmp_path / "killed", "--dropout", "0", "--die", "batch", workers=2)
    mine, other = (told(worker.output()) for worker in two.workers)
    assert mine["sizes"] == pytest.approx(one["sizes"], rel=1e-6)
    for name in ("loss", "mae", "val_loss", "val_mae", "learning_rate"):
        assert mine["first"][name] == pytest.approx(one["first"][name], rel=1e-5), name
    assert mine["evaluation"] == pytest.approx(one["evaluation"], rel=1e-5)
    assert other["weights"] == mine["weights"]
    assert told(killed.workers[0].output()) == mine
    assert killed.workers[0].result.weights_sha256 == two.workers[0].result.weights_sha256
    assert (tmp_path / "killed/files/log.csv").read_text() == (tmp_path / "two/files/log.csv").read_text()


@pytest.mark.soak
def test_a_script_with_a_strategy_and_distributed_data_of_its_own_trains_as_one_process(tmp_path: Path) -> None:
    last = finished(tmp_path / "job", workers=2, script="divided.py")
    one, two = plain(tmp_path / "plain", script="divided.py"), [told(worker.output()) for worker in last.workers]
    assert two[0] == two[1]
    assert two[0]["sizes"] == pytest.approx(one["sizes"], rel=1e-5)
    assert two[0]["evaluation"] == pytest.approx(one["evaluation"], rel=1e-5)
    for name, values in one["history"].items():
        assert two[0]["history"][name] == pytest.approx(values, rel=1e-5)


@pytest.mark.soak
def test_a_loss_that_is_no_number_ends_the_job(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import keras, numpy as np\n"
        "model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
        "model.compile(keras.optimizers.SGD(1e30), 'mse')\n"
        "model.fit(np.ones((64, 2)), np.ones((64, 1)), epochs=3, verbose=0)\n"
    )
    with run(tmp_path, {"script": "train.py"}) as current:
        assert current.wait() == [ExitCode.TASK_ERROR], current.workers[0].output()
    failure = current.workers[0].failure
    assert failure is not None
    assert "the loss is not a finite number" in failure.message
    with run(tmp_path / "goes-on", {"script": "train.py", "on_nan": "go-on"}, task_root=tmp_path) as current:
        assert current.wait() == [0], current.workers[0].output()
    assert current.workers[0].output().count("the loss is not a finite number") == 1


def test_a_stop_saves_and_the_next_start_goes_on(tmp_path: Path) -> None:
    with job(tmp_path) as current:
        current.wait(until=lambda now: hasattr(now, "kept"))
        current.stop()
        assert current.wait() == [ExitCode.STOPPED], current.workers[0].output()
        stopped = current.kept
    with job(tmp_path, attempt=2, restore=stopped) as resumed:
        assert resumed.wait() == [0], resumed.workers[0].output()
    assert told(resumed.workers[0].output()) == plain(tmp_path / "plain")


def test_a_script_that_is_not_repeated_is_told_what_differs(tmp_path: Path) -> None:
    with job(tmp_path) as current:
        current.wait(until=lambda now: hasattr(now, "kept"))
        current.kill()
    with job(tmp_path, "--data-seed", "1", attempt=2, restore=current.kept) as resumed:
        assert resumed.wait() == [0], resumed.workers[0].output()
    said = [line for line in resumed.workers[0].output().splitlines() if "the script is not repeated as it was" in line]
    assert len(said) == 1
    assert "it was: fit's x, fit's y differ from when step-" in said[0]


@pytest.mark.soak
def test_resume_in_plain_python_goes_on_after_a_kill_and_after_sigterm(tmp_path: Path) -> None:
    source = (SCRIPTS / "two_fits.py").read_text()
    source = source.replace("import keras\n", "import keras\n\nfrom trainer.keras import Resume\n", 1)
    source = source.replace("callbacks=callbacks", 'callbacks=[*callbacks, Resume("runs/x", every=7)]')
    source = source.replace("callbacks=[Second()]", 'callbacks=[Second(), Resume("runs/x", every=7)]')
    script = tmp_path / "train.py"
    script.write_text(source)
    command = [sys.executable, str(script), "--files", str(tmp_path / "files")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    def commits() -> list[int]:
        folder = tmp_path / "runs/x/checkpoints/commits"
        return sorted(int(path.name.split(".")[0].removeprefix("step-")) for path in folder.glob("*.json"))

    for signal_, beyond, code in ((signal.SIGKILL, 7, -signal.SIGKILL), (signal.SIGTERM, 40, ExitCode.STOPPED)):
        process = start()
        deadline = time.monotonic() + 60
        while not (commits() and commits()[-1] > beyond) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal_)
        process.communicate(timeout=60)
        assert process.returncode == code
    output, _ = start().communicate(timeout=120)
    assert told(output) == plain(tmp_path / "plain")
    assert (tmp_path / "files/log.csv").read_text() == (tmp_path / "plain/log.csv").read_text()


def test_a_keras_that_nobody_has_tried_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    places.check_known()
    monkeypatch.setitem(places.PLACES, "fit", places.digest_of)
    with pytest.raises(ConfigError, match=r"trains in another way .* fit differ"):
        places.check_known()


FAILS_FIRST = """
import keras, numpy as np

class Fails(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 8:
            raise KeyError("batch 8")

def model(units):
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made

x = np.ones((320, 4), "float32")
try:
    model(200000).fit(x, x[:, :1], batch_size=8, callbacks=[Fails()], verbose=0)
except KeyError:
    model(3).fit(x, x[:, :1], batch_size=8, verbose=0)
"""


def test_a_save_that_an_error_in_fit_left_in_flight_is_waited_for(tmp_path: Path) -> None:
    """The writer reads the memory that the next call's save is copied to."""
    (tmp_path / "train.py").write_text(FAILS_FIRST)
    early: list[bytes] = []

    def slowly(current: Run, snapshot: Any) -> Any:
        if snapshot.step == 7 and not early:
            time.sleep(4)
            waiting = select.select([current.workers[0].socket], [], [], 0)[0]
            early.append(waiting[0].recv(1 << 20, socket.MSG_PEEK) if waiting else b"")
        return current.commit(snapshot)

    with run(tmp_path, {"script": "train.py"}, checkpoint={"every": 7}, answer=slowly) as current:
        assert current.wait() == [0], current.workers[0].output()
    assert early
    assert b'"snapshot"' not in early[0]


def test_what_keras_says_of_a_wrong_call_is_what_the_user_reads(tmp_path: Path) -> None:
    said = []
    for name, line in (
        ("uncompiled", "model.fit(x, x)"),
        ("wide", "model.compile('sgd', 'mse'); model.fit(x, x, verbose=0); model.fit(np.ones((8, 3)), x, verbose=0)"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(
            "import keras, numpy as np\nx = np.ones((8, 2))\n"
            f"model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])\n{line}\n"
        )
        with run(tmp_path / name, {"script": "train.py"}) as current:
            assert current.wait() == [ExitCode.TASK_ERROR], current.workers[0].output()
        failure = current.workers[0].failure
        assert failure is not None
        said.append(failure.message)
    assert said[0] == "You must call `compile()` before using the model."
    assert said[1].startswith("Matrix size-incompatible: In[0]: [8,3], In[1]: [2,2]")


@pytest.mark.soak
def test_two_workers_make_the_choices_that_a_script_leaves_unseeded_alike(tmp_path: Path) -> None:
    arguments = ("--data", "arrays", "--unseeded", "--die", "17")
    last = finished(tmp_path / "job", *arguments, workers=2, script="data_kinds.py")
    again = finished(tmp_path / "again", "--data", "arrays", "--unseeded", workers=2, script="data_kinds.py")
    mine, other = (told(worker.output()) for worker in last.workers)
    assert mine == other == told(again.workers[0].output())
