"""`command:` jobs: a script that knows nothing of orch gets TF_CONFIG, restarts, logs and an exit code that tells."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_run import OrchRun, children_of, command_of


@pytest.fixture
def run_command(tmp_path: Path) -> Iterator[Callable[..., OrchRun]]:
    runs: list[OrchRun] = []

    def begin(script: str, *arguments: str) -> OrchRun:
        (tmp_path / "job.yaml").write_text(
            "name: script\ntrain:\n  command: [bash, -c, " + json.dumps(script) + "]\nrestarts: {max: 2}\n"
        )
        run = OrchRun(tmp_path / "job.yaml", *arguments, cwd=tmp_path, deadline_s=60)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.close()


def test_a_script_gets_its_place_in_the_cluster_and_its_output_is_kept(
    run_command: Callable[..., OrchRun], tmp_path: Path
) -> None:
    run = run_command('echo "config $TF_CONFIG"', "--workers", "2")
    result = run.result()
    assert (result["state"], result["code"], result["attempts"]) == ("succeeded", 0, 1)
    logs = [tmp_path / f"runs/script/logs/worker-{index}/attempt-1/segment-000001.log" for index in (0, 1)]
    seen = [json.loads(path.read_text().removeprefix("config ")) for path in logs]
    assert [config["task"]["index"] for config in seen] == [0, 1]
    assert seen[0]["cluster"] == seen[1]["cluster"]


def test_two_workers_of_a_program_that_knows_of_no_other_are_told_that_each_trains_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("class Model:\n    def fit(self): ...\n\nModel().fit()\n")
    (tmp_path / "job.yaml").write_text("name: script\ntrain: {command: [python, train.py]}\n")
    for workers, told in (("2", 1), ("1", 0)):
        run = OrchRun(tmp_path / "job.yaml", "--workers", workers, "--fresh", cwd=tmp_path, deadline_s=60)
        try:
            assert run.result()["state"] == "succeeded"
        finally:
            run.close()
        warning = "warning: train.py never looks at TF_CONFIG: each of the 2 workers trains the same, alone -> train: {script:"
        assert sum(line.startswith(warning) for line in run.lines) == told


def test_a_script_that_fails_ends_the_job_as_a_task_error(run_command: Callable[..., OrchRun]) -> None:
    result = run_command("exit 1").result()
    assert (result["state"], result["code"], result["restarts"]) == ("failed", 70, 0)


def test_the_reason_of_a_failure_is_the_scripts_own_last_error(
    run_command: Callable[..., OrchRun], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("print('val_error 0.1')\nraise ValueError('no such column: age')\n")
    run = run_command("python train.py")
    result = run.result()
    assert result["code"] == 70
    assert result["reason"] == "worker 0: the script failed: ValueError: no such column: age"


def test_a_killed_script_starts_again_in_place(run_command: Callable[..., OrchRun], tmp_path: Path) -> None:
    run = run_command(f"test -e {tmp_path}/second && exit 0; touch {tmp_path}/second; sleep 60")
    run.wait_until(lambda: (tmp_path / "second").exists(), "the first attempt")
    os.kill(run._find(lambda: children_of(run.agent(0), "sleep 60", None)), signal.SIGKILL)
    result = run.result()
    assert (result["state"], result["attempts"], result["restarts"]) == ("succeeded", 2, 1)
    assert result["history"][0]["steps_lost"] is None


def test_a_script_that_dies_again_and_again_is_given_up(run_command: Callable[..., OrchRun]) -> None:
    result = run_command("kill -9 $$").result()
    assert (result["state"], result["code"]) == ("failed", 77)
    assert "restarts.max (2) is used up" in result["reason"]
    assert "137" in result["reason"]


def test_a_program_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: script\ntrain: {command: [no-such-program]}\n")
    run = OrchRun(tmp_path / "job.yaml", cwd=tmp_path, deadline_s=60)
    try:
        result = run.result()
    finally:
        run.close()
    assert result["code"] == 78
    assert "no-such-program cannot be started" in result["reason"]


def test_a_program_starts_in_the_job_files_folder_wherever_orch_is_called(tmp_path: Path) -> None:
    folder, shell = tmp_path / "job", tmp_path / "shell"
    folder.mkdir()
    shell.mkdir()
    (folder / "says.sh").write_text("#!/bin/sh\npwd > where.txt\n")
    (folder / "says.sh").chmod(0o755)
    (folder / "job.yaml").write_text("name: script\ntrain: {command: [./says.sh]}\n")
    run = OrchRun(folder / "job.yaml", cwd=shell, deadline_s=60)
    try:
        assert run.result()["state"] == "succeeded"
    finally:
        run.close()
    assert (folder / "where.txt").read_text().strip() == str(folder.resolve())
    assert (shell / "runs/script").is_dir(), "the run directory stays where orch is called"


@pytest.mark.parametrize(("python", "path"), [("python", "/usr/bin:/bin"), ("python3", "/nowhere"), ("python", "")])
def test_python_is_the_one_that_runs_orch_also_where_no_environment_is_activated(
    tmp_path: Path, python: str, path: str
) -> None:
    (tmp_path / "says.py").write_text(
        "import json, os, sys\nprint(json.dumps([sys.executable, os.environ['PATH']]), file=open('told.json', 'w'))\n"
    )
    (tmp_path / "job.yaml").write_text(f"name: script\ntrain: {{command: [{python}, says.py]}}\n")
    run = OrchRun(tmp_path / "job.yaml", cwd=tmp_path, environment={"PATH": path}, deadline_s=60)
    try:
        assert run.result()["state"] == "succeeded", run.log
    finally:
        run.close()
    executable, searched = json.loads((tmp_path / "told.json").read_text())
    assert os.path.dirname(executable) == os.path.dirname(sys.executable)
    assert searched.split(":")[0] == os.path.dirname(sys.executable)


def test_a_users_package_called_trainer_comes_first_for_a_module_that_is_started(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").write_text("")
    (tmp_path / "trainer/model.py").write_text("NAME = 'mine'\n")
    (tmp_path / "trainer/main.py").write_text("from trainer import model\nopen('told.txt', 'w').write(model.NAME)\n")
    (tmp_path / "job.yaml").write_text("name: script\ntrain: {command: [python, -m, trainer.main]}\n")
    run = OrchRun(tmp_path / "job.yaml", cwd=tmp_path.parent, deadline_s=60)
    try:
        assert run.result()["state"] == "succeeded", run.log
    finally:
        run.close()
        shutil.rmtree(tmp_path.parent / "runs", ignore_errors=True)
    assert (tmp_path / "told.txt").read_text() == "mine"


def test_a_stopped_script_leaves_no_process_behind(run_command: Callable[..., OrchRun], tmp_path: Path) -> None:
    run = run_command(f"touch {tmp_path}/up; sleep 1000 & wait")
    run.wait_until(lambda: (tmp_path / "up").exists(), "the script")
    everything = run.everything()
    os.kill(run.process.pid, signal.SIGINT)
    result = run.result()
    assert result["code"] == 130
    assert result["reason"] == "stopped; orch saves nothing of a command: run again, and it runs from its start"
    told = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", "status", "runs/script"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result["reason"] in told.stdout
    assert "Ctrl-C: the command is told to end (SIGTERM); once more ends at once" in run.log
    assert not any(word in f"{run.log}\n{told.stdout}" for word in ("checkpoint", "a block takes"))
    deadline = time.monotonic() + 5  # what was killed a moment ago may still be there
    while left := [pid for pid in everything if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def test_a_script_dies_with_its_agent_and_is_not_there_twice(
    run_command: Callable[..., OrchRun], tmp_path: Path
) -> None:
    run = run_command(f"echo $$ >> {tmp_path}/pids; exec sleep 60")

    def pids() -> list[int]:
        path = tmp_path / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    run.wait_until(lambda: len(pids()) == 1, "the script")
    os.kill(run.agent(0), signal.SIGKILL)
    run.wait_until(lambda: len(pids()) == 2, "the script of the next attempt")
    assert command_of(pids()[0]) == ""
