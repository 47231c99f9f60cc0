"""Fault points: off they are nothing; armed, each fires once, for whom it was meant."""

import ast
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer import faults

ROOT = Path(__file__).parents[2]


def test_off_unless_the_environment_names_a_folder() -> None:
    assert faults.VARIABLE not in os.environ
    assert faults.reach is faults._nothing


def test_a_fault_fires_once_whoever_reaches_it(tmp_path: Path) -> None:
    path = faults.arm(tmp_path, "process.block", "raise")

    def reach(worker: int) -> int:
        try:
            faults.Faults(tmp_path, str(worker)).reach("process.block")
        except faults.FaultRaised:
            return 1
        return 0

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(reach, range(32))) == 1
    assert not path.exists()


def test_a_fault_meant_for_one_worker_waits_for_it_and_for_its_turn(tmp_path: Path) -> None:
    faults.arm(tmp_path, "writer.after-delete", "raise", worker=1, passes=2)
    faults.Faults(tmp_path, "0").reach("writer.after-delete")
    other = faults.Faults(tmp_path, "1")
    other.reach("writer.after-delete")
    other.reach("writer.before-delete")
    other.reach("writer.after-delete")
    with pytest.raises(faults.FaultRaised, match="after-delete"):
        other.reach("writer.after-delete")
    other.reach("writer.after-delete")


def test_kill_and_stop_hit_the_process_itself(tmp_path: Path) -> None:
    program = "from trainer import faults; faults.reach('process.left'); print('reached', flush=True)"

    def start() -> subprocess.Popen[bytes]:
        environment = os.environ | {faults.VARIABLE: str(tmp_path), "ORCH_INDEX": "3"}
        return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, cwd=ROOT)

    faults.arm(tmp_path, "process.left", "kill", worker=3)
    killed = start()
    assert killed.communicate(timeout=30)[0] == b""
    assert killed.returncode == -signal.SIGKILL
    faults.arm(tmp_path, "process.left", "stop")
    stopped = start()
    assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
    stopped.send_signal(signal.SIGCONT)
    assert stopped.communicate(timeout=30)[0] == b"reached\n"


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fault point"):
        faults.arm(tmp_path, "process.lost", "kill")
    for action in ("explode", "sleep", "kill 3"):
        with pytest.raises(ValueError, match="no fault"):
            faults.arm(tmp_path, "process.left", action)
    assert list(tmp_path.iterdir()) == []


def test_every_point_is_in_the_code_and_every_call_names_a_point() -> None:
    called = set()
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.reach":
                called.add(ast.literal_eval(node.args[0]))
    assert called == set(faults.POINTS)
