"""What a failed process says reaches whoever asks, whatever characters are in it; and it is no page of numbers."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.agent import link as link_module
from trainer.agent.link import CoordinatorClient, Link, Unsendable
from trainer.agent.server import AgentServer
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.process.__main__ import tell
from trainer.process.tracebacks import full_traceback, message_of, shortened, user_traceback
from trainer.rundir.attempts import AttemptEnd, now
from trainer.rundir.open import open_store
from trainer.wire.coordinator import AgentReport, Directive, ExitReport
from trainer.wire.lines import encode
from trainer.wire.process import Failure, from_process

MESSAGES = ["Größe ✓ 日本語 🚀", "half a pair \ud83d here", "a NUL \0 and a bell \7", "long " * 100_000, "\udcff"]


def _report(message: str) -> AgentReport:
    end = ExitReport(attempt=1, code=70, exception="ValueError", message=message[:2000], traceback=message[:8000])
    return AgentReport(
        launch="l", index=1, uid="u", address="127.0.0.1", port=20000, state="idle", attempt=1, last_exit=end
    )


@pytest.mark.parametrize("message", MESSAGES, ids=["utf-8", "surrogate", "nul", "long", "byte"])
def test_any_message_travels_from_a_process_to_the_coordinator(message: str) -> None:
    told = from_process.validate_json(encode(Failure(code=70, exception="ValueError", message=message)))
    assert isinstance(told, Failure)
    assert told.message.encode().decode(errors="strict")
    heard: list[AgentReport] = []

    def poll(report: AgentReport) -> Directive:
        heard.append(report)
        return Directive(kind="wait", coordinator="c", attempt=1, reason=message)

    server = AgentServer(("127.0.0.1", 0), "t", poll=poll, state=None, metrics=lambda: "")
    try:
        answer = CoordinatorClient(server.address, "t").poll(_report(message))
    finally:
        server.close()
    assert heard[0].last_exit is not None
    for said in (heard[0].last_exit.message, answer.reason):
        assert said[:5] == message[:5].encode(errors="backslashreplace").decode()[:5]
    if message.isprintable():
        assert answer.reason == message


def test_what_holds_half_a_pair_keeps_all_its_other_fields() -> None:
    end = AttemptEnd(attempt=3, code=70, reason="\ud83d", worker=1, at=now())
    assert AttemptEnd.model_validate_json(end.to_json()) == end.model_copy(update={"reason": "\\ud83d"})


class _Refusing:
    """A coordinator that takes no report whose exit has a message, or none at all."""

    def __init__(self, *, never: bool) -> None:
        self.never = never
        self.heard: list[AgentReport] = []

    def poll(self, report: AgentReport) -> Directive:
        if self.never or (report.last_exit and report.last_exit.traceback):
            raise Unsendable("the coordinator answered 413")
        self.heard.append(report)
        return Directive(kind="wait", coordinator="c", attempt=1, poll_after_s=0.01)


def _link(poll: Any, report: Any, folder: Path) -> tuple[Link, threading.Event]:
    woken = threading.Event()
    return Link(poll, report, open_store(str(folder)), "l", woken.set), woken


def test_a_report_that_is_not_taken_is_told_without_its_words(tmp_path: Path) -> None:
    coordinator = _Refusing(never=False)
    link, woken = _link(coordinator.poll, lambda: _report("x"), tmp_path)
    assert woken.wait(5)
    link.close()
    end = coordinator.heard[0].last_exit
    assert end is not None
    assert (end.code, end.traceback) == (70, "")
    assert "413" in end.message


@pytest.mark.parametrize("broken", ["poll", "report"])
def test_an_agent_that_cannot_tell_its_state_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(link_module, "REFUSED_MAX", 2)

    def no_report() -> AgentReport:
        raise TypeError("a bug")

    coordinator = _Refusing(never=True)
    link, woken = _link(coordinator.poll, no_report if broken == "report" else lambda: _report("x"), tmp_path)
    assert woken.wait(10)
    directive = link.take()
    assert directive is not None
    assert (directive.kind, directive.code) == ("leave", ExitCode.LOST_PEER)
    assert "could not be told" in directive.reason
    link.close()


def test_a_coordinator_that_is_away_makes_nobody_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "REFUSED_MAX", 2)

    def away(report: AgentReport) -> Directive:
        raise ConnectionRefusedError

    link, woken = _link(away, lambda: _report("x"), tmp_path)
    assert not woken.wait(2.0)
    assert link.silent_since is not None
    assert link.take() is None
    link.close()


def test_a_poll_that_fails_in_the_coordinator_is_answered() -> None:
    def poll(report: AgentReport) -> Directive:
        raise KeyError("a bug")

    server = AgentServer(("127.0.0.1", 0), "t", poll=poll, state=None, metrics=lambda: "")
    try:
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"answered 500.*KeyError"):
            CoordinatorClient(server.address, "t").poll(_report("x"))
        assert time.monotonic() - began < 2
    finally:
        server.close()


def test_a_graphs_stack_and_its_numbers_are_left_out() -> None:
    label = "Received a label value of 3 which is outside the valid range of [0, 3)."
    text = (
        "Graph execution error:\n\nDetected at node loss/Sparse defined at (most recent call last):\n"
        + '  File "/usr/lib/python3/site-packages/keras/x.py", line 7, in call\n\n' * 30
        + f"{label}  Label values: {' '.join(['0 1 2 3'] * 500)}\n\t [[{{{{node loss/Sparse}}}}]] [Op:__inference_f_130]"
    )
    assert shortened(text) == f"{label}  Label values: 0 1 2 3 0 1 ..."
    array = "array is\n" + "\n".join("[[ 0.25 -1.5e-3 nan 4. 5. 6. 7. 8. 9. 10. 11. 12. 13. 14. ]]" for _ in range(300))
    assert len(shortened(array).splitlines()) <= 10


def test_keras_own_page_is_left_out_and_what_was_called_stays() -> None:
    text = (
        "Exception encountered when calling Net.call().\n\n\x1b[1mexpected axis -1 to have value 4, got (100, 5)\x1b[0m\n\n"
        "Arguments received by Net.call():\n  • inputs=tf.Tensor(shape=(100, 5), dtype=float32)\n  • training=None"
    )
    assert shortened(text) == "in Net.call(): expected axis -1 to have value 4, got (100, 5)"


def test_the_innermost_frames_and_the_remedy_are_kept() -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        raise ValueError("\n".join(f"line {number} " + "x" * 2000 for number in range(100)))

    with pytest.raises(ValueError, match="line") as caught:
        deeper(30)
    shown = user_traceback(caught.value).splitlines()
    assert len(shown) < 20
    assert "line 99" in shown[-1]
    assert all(len(line) < 450 for line in shown)
    assert full_traceback(caught.value).count("x" * 2000) == 100
    error = ConfigError("does not fit:\n" + "\n".join(str(number) for number in range(40)), remedy="Start anew.")
    assert len(message_of(error).splitlines()) <= 14


def test_an_exception_that_cannot_be_printed_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(Mute) as caught:
        raise Mute
    assert "its message cannot be made" in user_traceback(caught.value)
    assert "Mute" in full_traceback(caught.value)


def test_a_process_tells_what_is_to_be_done_apart_from_what_happened() -> None:
    sent: list[Failure] = []

    class Told:
        step = 3
        send = staticmethod(sent.append)

    assert tell(Told(), ConfigError("it does not fit", remedy="Train anew.")) == ExitCode.CONFIGURATION  # type: ignore[arg-type]
    tell(Told(), ValueError("a line\nand another"))  # type: ignore[arg-type]
    assert [failure.remedy for failure in sent] == ["Train anew.", ""]
    assert sent[0].message == "it does not fit\nTrain anew."
