"""Byte code for an image, made by a program of its own: `python3.11 bytecode.py SOURCES OUTPUT PREFIX`.

With a read-only root nothing in a pod could write it later, and importing TensorFlow without takes seconds more. The files
come out the same each time: not checked against the source's time, and marshalled without marks of shared references, which
depend on what else the interpreter holds. Standard library only: it may run in another interpreter than orch's.
"""

import importlib.util
import marshal
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

_UNCHECKED_HASH = 0b01
_MARSHAL_WITHOUT_REFERENCES = 2


def compile_file(source: Path, output: Path, shown_as: str) -> None:
    """Write the byte code of one file; one that is no valid Python (templates, tests of parsers) gets none."""
    text = source.read_bytes()
    try:
        code = compile(text, shown_as, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(text)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(head + marshal.dumps(code, _MARSHAL_WITHOUT_REFERENCES))


def compile_tree(sources: Path, output: Path, prefix: str) -> None:
    """Byte code of all files under `sources`, into the same places under `output`.

    Args:
        prefix: where `sources` will lie in the image, for tracebacks.
    """
    jobs = []
    for file in sorted(sources.rglob("*.py")):
        place = file.relative_to(sources)
        made = output / place.parent / "__pycache__" / f"{place.stem}.{sys.implementation.cache_tag}.pyc"
        jobs.append((file, made, f"{prefix}/{place.as_posix()}"))
    if len(jobs) < 200:
        for job in jobs:
            compile_file(*job)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_file, *zip(*jobs, strict=True), chunksize=64))


if __name__ == "__main__":
    compile_tree(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
