"""An import beside training works in pieces, and rests after each."""

import subprocess
import sys

from trainer.process.unhurried import LOOK_S, SHARE, WORK_S, Rests


class Machine:
    """A thread that works and sleeps, on a machine with so many idle cores."""

    def __init__(self, idle_cores: float | None) -> None:
        self.worked = self.slept = 0.0
        self._idle_cores = idle_cores

    def rests(self) -> Rests:
        return Rests(lambda: self.worked, self._sleep, self._idle_core_s)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds

    def _idle_core_s(self) -> float | None:
        return None if self._idle_cores is None else self.slept * self._idle_cores


def work(machine: Machine, seconds: float) -> None:
    rests = machine.rests()
    rests.rest()
    for _ in range(round(seconds / 0.01)):
        machine.worked += 0.01
        rests.rest()


def test_with_no_idle_core_it_works_a_tenth_of_the_time() -> None:
    machine = Machine(idle_cores=0.3)
    work(machine, 2)
    assert abs(machine.worked / (machine.worked + machine.slept) - SHARE) < 0.02


def test_with_an_idle_core_it_only_looks() -> None:
    machine = Machine(idle_cores=1.0)
    work(machine, 2)
    assert 0 < machine.slept <= 2 / WORK_S * LOOK_S + 1e-9


def test_under_a_cpu_limit_idle_cores_are_not_its_own() -> None:
    machine = Machine(idle_cores=None)
    work(machine, 2)
    assert machine.slept > 5 * machine.worked


def test_a_module_is_imported_in_a_thread_of_the_lowest_priority_and_others_keep_theirs() -> None:
    program = """
import os, sys, time
from trainer.process.unhurried import run_beside_training

def imports():
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass
    import mailbox
    assert os.sched_getscheduler(0) == os.SCHED_IDLE
    assert len(sys.meta_path) == before + 1

before = len(sys.meta_path)
run_beside_training(imports)
assert "mailbox" in sys.modules and len(sys.meta_path) == before
assert os.sched_getscheduler(0) == os.SCHED_OTHER
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
