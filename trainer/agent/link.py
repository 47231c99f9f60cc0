"""The agent's line to the coordinator: polls in a thread of its own, so that a slow name server holds nobody up.

While worker 0 does not answer, the run directory is asked: the job may be over, or taken over, and worker 0 gone.
"""

import contextlib
import http
import http.client
import logging
import threading
import time
from collections.abc import Callable, Sequence

from trainer.errors import OrchError
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, read_records
from trainer.rundir.store import Store
from trainer.wire.coordinator import AgentReport, Directive, ExitReport, JobState

log = logging.getLogger(__name__)

REQUEST_S = 3.0
RENEW_S = 10.0
"""How often the name of worker 0 is followed anew: another pod may bear it by now, while the old one still answers."""
END_CHECK_S = 10.0
_REPORTS_FAULT = (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
REFUSED_MAX = 20
"""So many reports in a row that could not be told end this agent: the one in its place may do better."""
OBEY_S = 5.0
"""How long the agent's own thread may take to obey; then it is asked anew all the same, lest it seem silent."""


class Unsendable(ValueError):
    """A report that cannot be put into words, or that the coordinator does not take: as it is, no try will do."""


class CoordinatorClient:
    """HTTP to worker 0's agent, by its name. The name is resolved anew whenever the connection broke, and every RENEW_S."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None
        self._renew_at_s = 0.0
        self._renewing: _Renewal | None = None

    def poll(self, report: AgentReport) -> Directive:
        """POST /v1/poll.

        Raises:
            OSError, http.client.HTTPException, ValueError: no answer, or none that makes sense.
            Unsendable: it is the report's fault.
        """
        try:
            body = report.to_json()
        except Exception as error:
            raise Unsendable(f"the report cannot be written: {type(error).__name__}: {error}") from error
        return Directive.model_validate_json(self._request("POST", "/v1/poll", body))

    def state(self) -> JobState:
        """GET /v1/state. Raises as `poll` does."""
        return JobState.model_validate_json(self._request("GET", "/v1/state", None))

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        self._renew()
        if self._connection is None:
            self._use(http.client.HTTPConnection(*self._address, timeout=REQUEST_S))
        assert self._connection is not None
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if response.status != 200:
            kind = Unsendable if response.status in _REPORTS_FAULT else ValueError
            raise kind(f"the coordinator answered {response.status}: {data[:200].decode(errors='replace')}")
        return data

    def _renew(self) -> None:
        """Change to a new connection as soon as there is one; a name server that is away takes nothing from the old one."""
        if self._renewing is not None and not self._renewing.is_alive():
            renewed, self._renewing = self._renewing.connection, None
            self._renew_at_s = time.monotonic() + RENEW_S
            if renewed is not None:
                self.close()
                self._use(renewed)
        elif self._renewing is None and self._connection is not None and time.monotonic() > self._renew_at_s:
            self._renewing = _Renewal(self._address)
            self._renewing.start()

    def _use(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._renew_at_s = time.monotonic() + RENEW_S

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Renewal(threading.Thread):
    """Connects in a thread of its own, since a name server may take its time."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(name="renewal", daemon=True)
        self._address = address
        self.connection: http.client.HTTPConnection | None = None
        """The open connection, once the thread has ended; None where there is none to be had."""

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=REQUEST_S)
        try:
            connection.connect()
        except OSError as error:
            log.debug("the connection to worker 0 cannot be renewed: %s", error)
        else:
            self.connection = connection


class _Records(threading.Thread):
    """Reads the records in a thread of its own: a store that does not answer must not make this worker silent too."""

    def __init__(self, store: Store, launch: str) -> None:
        super().__init__(name="records", daemon=True)
        self._store = store
        self._launch = launch
        self.directive: Directive | None = None
        """What they tell, once the thread has ended."""

    def run(self) -> None:
        try:
            self.directive = from_records(read_records(self._store), self._launch)
        except OrchError as error:
            log.debug("the run directory cannot be read: %s", error)


class Link:
    """Polls until closed; the newest directive waits in `take`."""

    def __init__(
        self,
        poll: Callable[[AgentReport], Directive],
        report: Callable[[], AgentReport],
        store: Store,
        launch: str,
        wake: Callable[[], None],
    ) -> None:
        """`poll` asks the coordinator, by HTTP or in this process; `report` gives this worker's state of the moment;
        `wake` is called when a directive arrived. Nothing is asked before `obeyed` was called after it, so that no report
        is older than what its worker was told last."""
        self._poll = poll
        self._report = report
        self._store = store
        self._launch = launch
        self._wake = wake
        self._lock = threading.Lock()
        self._directive: Directive | None = None
        self._hurry = threading.Event()
        self._obeyed = threading.Event()
        self._closed = False
        self.silent_since: float | None = None
        """Since when the coordinator has not answered (monotonic), or None."""
        self.error = ""
        """Why it does not answer, and the class of what was raised."""
        self.error_class = ""
        self._unsent: ExitReport | None = None
        """The exit of which nothing but its code could be told."""
        self._asking: _Records | None = None
        self._ask_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()

    def take(self) -> Directive | None:
        """The newest directive, once."""
        with self._lock:
            directive, self._directive = self._directive, None
        return directive

    def obeyed(self) -> None:
        """What was taken is done, and `report` tells of it."""
        with self._lock:
            if self._directive is None:
                self._obeyed.set()

    def hurry(self) -> None:
        """Something changed: poll now."""
        self._hurry.set()

    def close(self, timeout_s: float = REQUEST_S) -> None:
        """Poll once more and end."""
        with self._lock:
            self._closed = True
            self._obeyed.set()
        self._hurry.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        wait_s, refused = 0.25, 0
        while True:
            closed = self._closed
            directive: Directive | None = None
            try:
                directive = self._ask()
                self.silent_since, self.error, self._asking = None, "", None
                wait_s, refused = directive.poll_after_s, 0
            except Exception as error:  # whatever it is: an agent that polls no more waits for ever
                now = time.monotonic()
                self.silent_since = self.silent_since or now
                self.error, self.error_class = f"{type(error).__name__}: {error}", type(error).__name__
                wait_s = 0.5
                # Of a coordinator that cannot be reached time may make another one; of a report that cannot be told, never.
                away = isinstance(error, OSError | http.client.HTTPException | ValueError)
                refused = 0 if away and not isinstance(error, Unsendable) else refused + 1
                if refused in (1, REFUSED_MAX):
                    log.exception("worker 0 could not be asked")
                if not closed:
                    directive = self._told_by_store(now)
                if refused >= REFUSED_MAX and directive is None:
                    directive = _leave(f"this worker's state could not be told: {self.error}", ExitCode.LOST_PEER)
            if directive is not None:
                with self._lock:
                    self._directive = directive
                    if not self._closed:
                        self._obeyed.clear()
                self._wake()
                self._obeyed.wait(OBEY_S)
            if closed:
                return
            self._hurry.wait(wait_s)
            self._hurry.clear()

    def _ask(self) -> Directive:
        report = self._report()
        try:
            return self._poll(report)
        except Unsendable as error:
            if self._unsent is not report.last_exit:
                self._unsent = report.last_exit
                log.exception("worker 0 is told without words")
            return self._poll(_without_words(report, str(error)))

    def _told_by_store(self, now: float) -> Directive | None:
        """The run directory's word, some time after it was asked for."""
        directive = None
        if self._asking is not None and not self._asking.is_alive():
            directive, self._asking = self._asking.directive, None
        elif self._asking is None and now >= self._ask_at_s:
            self._ask_at_s = now + END_CHECK_S
            asking = _Records(self._store, self._launch)
            with contextlib.suppress(RuntimeError):  # no thread to be had: at the next failure
                asking.start()
                self._asking = asking
        return directive


def from_records(records: Sequence[AttemptRecord | EndRecord], launch: str) -> Directive | None:
    """What the records alone tell an agent of `launch`: that its job is over, or taken over by a later one, or None."""
    own = [record for record in records if record.launch.id == launch]
    for end in own:
        if isinstance(end, EndRecord):
            return Directive(kind="exit", coordinator="", attempt=end.attempts, end=end, reason=end.reason)
    if own and (newest := records[-1]).launch.id != launch:
        reason = f"run directory taken over by launch {newest.launch.id}"
        return _leave(reason, ExitCode.CONFIGURATION)
    return None


def _leave(reason: str, code: ExitCode) -> Directive:
    return Directive(kind="leave", coordinator="", attempt=0, code=code, reason=reason)


def _without_words(report: AgentReport, why: str) -> AgentReport:
    """What must be told of this worker, without what its process said."""
    plain: dict[str, object] = {"metrics": {}, "save_error": ""}
    if report.last_exit is not None:
        words = f"its message could not be sent ({why[:200]}); its log has it"
        plain["last_exit"] = report.last_exit.model_copy(
            update={"exception": "", "message": words, "remedy": "", "traceback": ""}
        )
    if report.result is not None:
        plain["result"] = report.result.model_copy(update={"metrics": {}, "reason": report.result.reason[:200]})
    return report.model_copy(update=plain)
