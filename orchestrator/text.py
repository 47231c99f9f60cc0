"""How numbers, times and tables are put for a person: one way for all commands. Pure."""

from collections.abc import Sequence
from decimal import Decimal


def size(size_bytes: float) -> str:
    """What is stored or sent, in decimal units: `812 B`, `4.2 kB`, `262.3 MB`, `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def megabytes(size_bytes: float) -> str:
    """The same where images are meant, which one compares by megabytes: `445 MB`."""
    return f"{size_bytes / 1e6:.0f} MB"


def memory_size(size_bytes: float) -> str:
    """What a process has, in binary units as limits are given: `300 MiB`, `1.5 GiB`."""
    gib = size_bytes / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size_bytes / 2**20:.0f} MiB"


def amount_text(value: Decimal, resource: str) -> str:
    """How much of a resource of Kubernetes, as one would write it: `4Gi` of memory or storage, `1.5` of anything else."""
    if resource.endswith(("memory", "storage")) or resource.startswith("hugepages"):
        for unit, factor in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if value >= factor:
                return f"{float(value / factor):.4g}{unit}"
    return f"{value.normalize():f}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_duration(seconds: float) -> str:
    """The same, to a tenth below a minute: `12.4 s`."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def progress(step: int, total_steps: int | None, rate: float) -> str:
    """How far a job is, and how fast: `rate` in steps a second, 0 where nobody knows."""
    return f"step {step}" + (f" of {total_steps}" if total_steps else "") + (f", {rate:.1f} steps/s" if rate else "")


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """A line a row, columns as wide as what they hold."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def first_line(text: object) -> str:
    """Of a message that may have several lines, or none: what stands in a line of one's own."""
    return (str(text).splitlines() or [""])[0]
