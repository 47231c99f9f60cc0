"""python -m tests.chaos --seed 1 --faults 20 [--workers 3] [--store gcs|local] [--folder DIR]

Trains the same job again and again under faults drawn from the seed, until that many have happened, and checks each time that
it ended as the undisturbed job does. Prints a table, and every violation; exit code 1 where there is one. The draws come
from the seed alone, so a run can be repeated; what a fault meets depends on the machine's pace.
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support_gcs import FakeGcs

from tests.chaos import oracle
from tests.chaos.faults import Kind, draw
from tests.chaos.leg import FAST, STEPS, Leg
from trainer.checkpoint import restore
from trainer.rundir.commits import list_commits

LAST_FAULT_AT = STEPS - 150
RECOVERY_S = 180.0
DISTURBED_S = 5.0
"""How long a fault that need not end an attempt is watched for doing so."""


def undisturbed(folder: Path, workers: int) -> dict[str, Any]:
    """The job as nobody disturbs it: its weights_sha256 and its final state."""
    leg = Leg(folder, workers, None, 0)
    leg.pace.write_text(FAST)
    result = leg.finish()
    assert result["state"] == "succeeded", result
    with leg._directly() as store:
        arrays = restore.load(store, list_commits(store)[-1]).arrays
    return {"weights_sha256": result["weights_sha256"], "arrays": dict(arrays)}


def recover(leg: Leg, kind: Kind, attempt: float) -> float | None:
    """Wait until training goes on after a fault; seconds since it, or None where nothing was interrupted or the job ended."""
    began = time.monotonic()
    interrupted = False
    while time.monotonic() - began < RECOVERY_S:
        if not leg.alive:
            return None
        now = leg.figure("orch_attempt")
        interrupted = interrupted or now != attempt or leg.figure("orch_running") == 0
        if now > attempt and leg.training():
            return time.monotonic() - began
        if not kind.ends_attempt and not interrupted and time.monotonic() - began > DISTURBED_S:
            return None
        time.sleep(0.05)
    raise AssertionError(f"no recovery from {kind.name} within {RECOVERY_S:.0f} s\n" + "\n".join(leg.run.lines[-60:]))


class Chaos:
    """Legs one after the other, until enough faults have happened."""

    def __init__(self, folder: Path, seed: int, faults: int, workers: int, server: FakeGcs | None) -> None:
        self.folder, self.workers, self.server = folder, workers, server
        self.wanted, self.done, self.legs, self.steps_lost = faults, 0, 0, 0
        self.recoveries: dict[str, list[float | None]] = defaultdict(list)
        self.violations: list[str] = []
        self._choice = random.Random(seed)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line with the time since the beginning."""
        print(f"[{time.monotonic() - self._began:6.0f} s] {text}", flush=True)

    def run(self) -> None:
        """All of it."""
        expected = undisturbed(self.folder / "undisturbed", self.workers)
        self.say("the undisturbed job is done")
        while self.done < self.wanted:
            self.legs += 1
            leg = Leg(self.folder / f"leg-{self.legs}", self.workers, self.server, self.legs)
            try:
                self.disturb(leg)
                result = leg.finish()
                troubles = oracle.violations(leg, result, expected)
                self.steps_lost += oracle.steps_lost(leg)
            except AssertionError as error:
                troubles = [str(error)]
            finally:
                leg.close()
            (leg.folder / "log.txt").write_text("\n".join(leg.log + leg.run.lines))
            self.violations += [f"job {self.legs}: {trouble}" for trouble in troubles]
            for trouble in troubles:
                self.say(f"VIOLATION job {self.legs}: {trouble}")
            self.say(f"job {self.legs} {'failed' if troubles else 'ended as the undisturbed one'}")

    def disturb(self, leg: Leg) -> None:
        """Faults on one job until enough have happened, or its end is near."""
        while self.done < self.wanted:
            leg.run.wait_until(leg.training, "training to go on")
            if leg.figure("orch_step") > LAST_FAULT_AT:
                return
            time.sleep(self._choice.uniform(0.0, 3.0))
            kind, attempt = draw(self._choice), leg.figure("orch_attempt")
            told = kind.act(leg, self._choice)
            seconds = recover(leg, kind, attempt)
            self.recoveries[kind.name].append(seconds)
            self.done += 1
            shown = f"{seconds:.1f} s" if seconds is not None else "not interrupted"
            self.say(f"{self.done:4d} {kind.name}: {told}: {shown}")
            if not leg.alive:
                return


def main() -> int:
    """Parse, run, print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--store", choices=["gcs", "local"], default="gcs")
    parser.add_argument("--folder", type=Path, help="keep everything there; default: a temporary folder")
    arguments = parser.parse_args()

    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    server = None
    if arguments.store == "gcs":
        server = FakeGcs(folder / "gcs")
        server.make_bucket("chaos")
    chaos = Chaos(folder, arguments.seed, arguments.faults, arguments.workers, server)
    try:
        chaos.run()
    finally:
        if server is not None:
            server.stop()
    table(chaos.recoveries)
    print(
        f"seed {arguments.seed}, {chaos.done} faults, {chaos.legs} jobs of {arguments.workers} workers on {arguments.store}: "
        f"{len(chaos.violations)} violations, {chaos.steps_lost} steps lost"
    )
    if arguments.folder is None and not chaos.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if chaos.violations else 0


def table(recoveries: dict[str, list[float | None]]) -> None:
    """Faults by kind: how many, how many of them interrupted training, and how long until it went on."""
    print(f"\n{'fault':22} {'number':>6} {'interrupted':>11} {'median':>8} {'worst':>8}")
    for name, all_of_them in sorted(recoveries.items()):
        seconds = [value for value in all_of_them if value is not None]
        figures = f"{statistics.median(seconds):6.1f} s {max(seconds):6.1f} s" if seconds else f"{'-':>8} {'-':>8}"
        print(f"{name:22} {len(all_of_them):6d} {len(seconds):11d} {figures}")


if __name__ == "__main__":
    sys.exit(main())
