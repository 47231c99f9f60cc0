"""Whether a process was stopped by a signal, from its state in /proc: nothing else will tell, and nothing will wake it."""

STOPPED_S = 5.0
"""A process that a signal has stopped (SIGSTOP) for so long is ended."""


class Stopped:
    """Looks at one process again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since: tuple[float, tuple[str, str]] | None = None

    def seconds(self, now: float) -> float:
        """For how long it has stood still, stopped by a signal; 0 while it has not, or is gone. Linux only."""
        try:
            with open(f"/proc/{self._pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(") ")[2].split()
        except OSError:
            return 0.0
        # One that is only slowed down, by stopping it again and again, uses processor time between two looks.
        state, used = fields[0], (fields[11], fields[12])
        if state != "T":
            self._since = None
        elif self._since is None or self._since[1] != used:
            self._since = (now, used)
        return now - self._since[0] if self._since is not None else 0.0
