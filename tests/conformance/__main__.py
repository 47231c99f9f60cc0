"""`python -m tests.conformance`: run the suite, say what is not as it should be, and write docs/conformance.md."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Literal

from tests.conformance.catalogue import load
from tests.conformance.report import DOCS, check, write
from tests.conformance.suite import run
from tests.conformance.verdict import Verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--part", choices=["fast", "ci", "whole"], default="whole")
    parser.add_argument("--only", nargs="*", help="ids of tasks, or parts of ids")
    parser.add_argument("--modes", nargs="*", help="one, xla, killed, four, two")
    parser.add_argument("--out", type=Path, default=Path("/tmp") / f"conformance-{os.getpid()}")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the tasks' processes")
    parser.add_argument("--rest", action="store_true", help="run what has no outcome in --out yet")
    parser.add_argument("--judge", action="store_true", help="run nothing: say what the outcomes in --out are")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md (of the whole)")
    parser.add_argument("--check", action="store_true", help="docs/conformance.md must say the same, but for digits")
    options = parser.parse_args()
    began = time.monotonic()
    which: Literal["all", "rest", "none"] = "none" if options.judge else "rest" if options.rest else "all"
    verdicts = run(
        options.out,
        options.part,
        only=options.only,
        modes=options.modes,
        python=options.python,
        which=which,
    )
    failed = [verdict for verdict in verdicts if verdict.kind in ("failed", "missing")]
    for verdict in failed:
        print(_line(verdict))
    print(
        f"{len(verdicts)} runs, {len(failed)} not as they should be, {time.monotonic() - began:.0f} s, in {options.out}"
    )
    if options.write:
        write(DOCS, verdicts, load().values(), _versions())
    if options.check:
        for fault in check(DOCS, verdicts, load().values()):
            print(fault)
            failed.append(verdicts[0])
    return 1 if failed else 0


def _versions() -> str:
    import keras
    import numpy as np
    import tensorflow as tf

    return f"Keras {keras.__version__}, TensorFlow {tf.__version__}, NumPy {np.__version__}, on a CPU."


def _line(verdict: Verdict) -> str:
    return f"{verdict.entry.id} [{verdict.mode}] {' | '.join(fault[:300] for fault in verdict.faults)}"


if __name__ == "__main__":
    sys.exit(main())
