"""The store as the coordinator knows it: whether it is asked, whether it answers, and when to ask it again. No I/O."""

from datetime import datetime

from trainer.retry import Backoff
from trainer.rundir.attempts import now as time_of_day

STORE_WAIT_MAX_S = 60.0


def waiting_for_store(since: datetime, error: str) -> str:
    """For a person: what everybody waits for."""
    return f"waiting for the store since {since:%H:%M:%S} UTC: {' '.join(error.split())}"


class Outage:
    """None at first."""

    def __init__(self, now: float) -> None:
        self.error = ""
        """Of the last call; empty where it was answered."""
        self._since: tuple[float, datetime] | None = None
        self._backoff = Backoff(1.0, STORE_WAIT_MAX_S)
        self.resume_at_s = now
        """Nothing is asked before."""

    def began(self, error: str, now: float) -> None:
        """A call was not answered."""
        self.error = error
        self._since = self._since or (now, time_of_day())
        self.resume_at_s = now + self._backoff.next_s()

    def ended(self, now: float) -> float:
        """A call was answered. Returns for how long none had been."""
        lasted_s = self.lasts_s(now)
        self.error, self._since = "", None
        self._backoff.reset()
        return lasted_s

    def lasts_s(self, now: float) -> float:
        """For how long no call was answered; 0 where there is no outage."""
        return now - self._since[0] if self._since is not None else 0.0

    @property
    def in_words(self) -> str:
        """For a person; empty where there is none."""
        return waiting_for_store(self._since[1], self.error) if self._since is not None else ""
