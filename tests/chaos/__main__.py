"""python -m tests.chaos --seed 1 --faults 20 [--workers 3] [--store gcs|local] [--folder DIR] [--only KIND] [--list]

Trains the same job again and again under faults drawn from the seed, until that many have happened, and checks each time that
it ended as the undisturbed job does. Prints a table, and every violation; exit code 1 where there is one. Kind and parameters
of a fault follow from the seed and its number alone, so a run can be repeated; what a fault meets depends on the machine's pace.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support_gcs import FakeGcs

from tests.chaos import oracle, remains
from tests.chaos.disk import Disk
from tests.chaos.faults import AT_THE_END, KINDS, Fault, draw, draw_end
from tests.chaos.leg import EVERY, Leg, Undisturbed

STEPS_MAX = 1500
LAST_STEPS = 200
"""In these no fault is begun but those that belong to the end."""
RECOVERY_S = 180.0
DISTURBED_S = 5.0
"""How long a fault that need not end an attempt is watched for doing so."""
REACHED_S = 20.0
"""How long it may take until an armed fault point is reached."""
LOOK_S = 0.1


@dataclass
class Happened:
    """One fault and what became of the job."""

    kind: str
    attempt: int
    """The newest attempt before it."""
    interrupted: bool = False
    recovered: bool = False
    seconds: float | None = None
    """Until training went on, or at the end of a job until its end; None where nothing was interrupted."""
    steps_lost: int = 0


class Chaos:
    """Legs one after the other, until enough faults have happened."""

    def __init__(
        self, folder: Path, seed: int, faults: int, workers: int, server: FakeGcs | None, only: Sequence[str]
    ) -> None:
        self.only = only
        self.disks = Disk.permitted()
        if not self.disks and only and all(kind.needs_disk for kind in KINDS if kind.name in only):
            raise SystemExit("no file system can be mounted here, and these faults need one")
        if not self.disks:
            print(
                "no file system can be mounted here: disks that are full do not count among the faults drawn",
                flush=True,
            )
        self.folder, self.seed, self.workers, self.server = folder, seed, workers, server
        self.wanted, self.drawn, self.legs = faults, 0, 0
        # About ten faults happen to a job of the longest kind; a short run needs no long one.
        self.steps = min(STEPS_MAX, LAST_STEPS + 5 * EVERY * faults)
        self.happened: list[Happened] = []
        self.violations: list[str] = []
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line with the time since the beginning."""
        print(f"[{time.monotonic() - self._began:6.0f} s] {text}", flush=True)

    def run(self) -> None:
        """All of it."""
        expected = self._undisturbed()
        self.say("the undisturbed job is done")
        while len(self.happened) < self.wanted:
            self._one(expected)

    def _undisturbed(self) -> Undisturbed:
        leg = Leg(self.folder / "undisturbed", self.workers, None, 0, steps=self.steps, keep=self.steps, disks=False)
        try:
            return leg.undisturbed()
        finally:
            leg.close()

    def _one(self, expected: Undisturbed) -> None:
        self.legs += 1
        before = len(self.happened)
        leg = Leg(
            self.folder / f"leg-{self.legs}", self.workers, self.server, self.legs, steps=self.steps, disks=self.disks
        )
        leg.expected = expected
        try:
            self._disturb(leg)
            self._end(leg)
            result = leg.finish()
            leg.compare_commits()
            troubles = oracle.violations(leg, result, expected)
            if result["state"] == "succeeded":
                for one in self.happened[before:]:
                    one.recovered = True
        except Exception as error:  # whatever it is, it must be told, and the other jobs must go on
            what = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
            troubles = [*leg.troubles, what]
        finally:
            leg.close()
            (leg.folder / "log.txt").write_text("\n".join(leg.log))
        self._count_steps(leg, self.happened[before:])
        self.violations += [f"job {self.legs}: {trouble}" for trouble in troubles]
        for trouble in troubles:
            self.say(f"VIOLATION job {self.legs}: {trouble}")
        self.say(f"job {self.legs} {'failed' if troubles else 'ended as the undisturbed one'}")

    def _count_steps(self, leg: Leg, happened: Sequence[Happened]) -> None:
        """What an attempt did again goes to the fault before it."""
        for attempt, steps in oracle.steps_lost(leg).items():
            earlier = [one for one in happened if one.attempt < attempt]
            if earlier:
                earlier[-1].steps_lost += steps

    def _disturb(self, leg: Leg) -> None:
        """Faults on one job until enough have happened but for the end's, or its end is near."""
        while len(self.happened) < self.wanted - 1 and not leg.resized:
            leg.run.wait_until(leg.training, "training to go on")
            if leg.run.figure("orch_step") > self.steps - LAST_STEPS:
                return
            self.drawn += 1
            store = "gcs" if self.server is not None else "local"
            fault = draw(self.seed, self.drawn, workers=leg.workers, store=store, only=self.only)
            if fault.kind.needs_disk and not self.disks:
                continue
            time.sleep(fault.pause_s)
            one = Happened(fault.kind.name, leg.attempt())
            began = time.monotonic()
            armed = fault.act(leg)
            if armed is not None and not self._reached(leg, armed):
                armed.unlink(missing_ok=True)
                self.say(f"     {fault.kind.name}: {fault.told}: not reached, does not count")
                continue
            self.happened.append(one)
            self._recover(leg, fault, one, began)
            shown = f"{one.seconds:.1f} s" if one.seconds is not None else "not interrupted"
            self.say(f"{len(self.happened):4d} {fault.kind.name}: {fault.told}: {shown}")
            if not leg.alive:
                return
            leg.wake()

    @staticmethod
    def _reached(leg: Leg, armed: Path) -> bool:
        deadline = time.monotonic() + REACHED_S
        while armed.exists() and leg.alive and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return not armed.exists()

    @staticmethod
    def _recover(leg: Leg, fault: Fault, one: Happened, began: float) -> None:
        """Wait until training goes on after a fault, or has ended."""
        step: float | None = None
        while time.monotonic() - began < RECOVERY_S:
            if not leg.alive:
                return
            now = leg.run.figures()
            if now:
                running = now["orch_running"] > 0
                one.interrupted = one.interrupted or now["orch_attempt"] > one.attempt or not running
                if now["orch_attempt"] > one.attempt and running and now["orch_steps_per_second"] > 0:
                    one.recovered, one.seconds = True, time.monotonic() - began
                    return
                if not fault.kind.ends_attempt and not one.interrupted and time.monotonic() - began > DISTURBED_S:
                    if step is not None and now["orch_step"] > step:
                        one.recovered = True
                        return
                    step = now["orch_step"] if step is None else step
            time.sleep(LOOK_S)
        raise AssertionError(f"no recovery from {fault.kind.name}: {fault.told} within {RECOVERY_S:.0f} s")

    def _end(self, leg: Leg) -> None:
        """Let the job come to its end, and disturb that."""
        if not leg.alive:
            return
        leg.run.wait_until(leg.training, "training to go on")
        leg.troubles += remains.memories(leg)
        leg.quiet()
        attempt = leg.attempt()
        room = self.wanted - len(self.happened)
        points = draw_end(self.seed, self.legs, leg.workers)[: max(room, 0)]
        armed = {f"kill at {point} of worker {worker}": leg.arm(point, "kill", worker) for point, worker in points}
        reached: dict[str, float] = {}
        while leg.alive:
            for told, path in armed.items():
                if told not in reached and not path.exists():
                    reached[told] = time.monotonic()
            time.sleep(LOOK_S)
            leg.run._check_deadline("the run to end")
        ended = time.monotonic()
        for told, path in armed.items():
            if path.exists():
                path.unlink()
                self.say(f"     {AT_THE_END}: {told}: not reached, does not count")
                continue
            seconds = ended - reached.get(told, ended)
            self.happened.append(Happened(AT_THE_END, attempt, interrupted=True, seconds=seconds))
            self.say(f"{len(self.happened):4d} {AT_THE_END}: {told}: ended {seconds:.1f} s later")


def table(happened: Sequence[Happened]) -> str:
    """Faults by kind: how many, how many of them interrupted training, after how many it went on, and when, and what it cost."""
    lines = [
        f"{'fault':24} {'number':>6} {'interrupted':>11} {'recovered':>9} {'median':>8} {'worst':>8} {'steps lost':>10}"
    ]

    def row(name: str, ones: Sequence[Happened]) -> str:
        seconds = [one.seconds for one in ones if one.seconds is not None]
        figures = f"{statistics.median(seconds):6.1f} s {max(seconds):6.1f} s" if seconds else f"{'-':>8} {'-':>8}"
        counts = f"{len(ones):6d} {sum(one.interrupted for one in ones):11d} {sum(one.recovered for one in ones):9d}"
        return f"{name:24} {counts} {figures} {sum(one.steps_lost for one in ones):10d}"

    for kind in sorted({one.kind for one in happened}):
        lines.append(row(kind, [one for one in happened if one.kind == kind]))
    return "\n".join([*lines, row("all", happened)])


def _leave(*_: object) -> None:
    """Ends with all that was started; a second signal (`timeout` sends two) must not end the clearing away."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    """Parse, run, print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--store", choices=["gcs", "local"], default="gcs")
    parser.add_argument("--folder", type=Path, help="keep everything there; default: a temporary folder")
    names = [kind.name for kind in KINDS]
    parser.add_argument("--only", action="append", default=[], choices=names, help="this kind alone; repeatable")
    parser.add_argument("--list", action="store_true", help="show what the seed draws, and do nothing")
    arguments = parser.parse_args()

    if arguments.list:
        for number in range(1, arguments.faults + 1):
            fault = draw(arguments.seed, number, workers=arguments.workers, store=arguments.store, only=arguments.only)
            print(f"{number:4d} {fault.pause_s:.1f} s later {fault.kind.name}: {fault.told}")
        return 0

    signal.signal(signal.SIGTERM, _leave)
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    server = None
    if arguments.store == "gcs":
        server = FakeGcs(folder / "gcs")
        server.make_bucket("chaos")
    chaos = Chaos(folder, arguments.seed, arguments.faults, arguments.workers, server, arguments.only)
    try:
        chaos.run()
    finally:
        if server is not None:
            server.stop()
        print(f"\n{table(chaos.happened)}" if chaos.happened else "")
    print(
        f"seed {arguments.seed}, {len(chaos.happened)} faults, {chaos.legs} jobs of {arguments.workers} workers "
        f"on {arguments.store}: {len(chaos.violations)} violations"
    )
    for violation in chaos.violations:
        print(f"VIOLATION {violation.partition(chr(10))[0]}")
    if arguments.folder is None and not chaos.violations:
        shutil.rmtree(folder, ignore_errors=True)
    elif chaos.violations:
        print(f"everything is in {folder}")
    return 1 if chaos.violations else 0


if __name__ == "__main__":
    sys.exit(main())
