"""Why a command failed: the last error line that it printed, as a person would find it."""

import subprocess
import sys

import pytest

from trainer.agent.exits import Ending, exit_report
from trainer.agent.last_error import LINES_MAX, LastError, last_error
from trainer.exit_codes import ExitCode
from trainer.wire.process import Phase


def printed_by(source: str) -> list[bytes]:
    done = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.splitlines(keepends=True)


FROM_ANOTHER = """
try:
    1 / 0
except ZeroDivisionError as error:
    raise RuntimeError("no mean") from error
"""
OF_KERAS = r"""
message = "Exception encountered when calling Dense.call().\n\n\x1b[1mInput 0 is odd\x1b[0m\n\nArguments received by it"
raise ValueError(message)
"""


@pytest.mark.parametrize(
    ("source", "exception", "message"),
    [
        ("raise ValueError('no column age')", "ValueError", "no column age"),
        ("raise ValueError", "ValueError", ""),
        ("import nothing_of_the_kind", "ModuleNotFoundError", "No module named 'nothing_of_the_kind'"),
        ("{}['a']", "KeyError", "'a'"),
        ("import json; json.loads('{')", "JSONDecodeError", "Expecting property name"),
        (FROM_ANOTHER, "RuntimeError", "no mean"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['b']", "KeyError", "'b'"),
        ("compile('f(', 'f.py', 'exec')", "SyntaxError", "'(' was never closed"),
        ("print('epoch 1: error 0.2\\n' * 50); raise OSError('disk')", "OSError", "disk"),
        ("raise ValueError('one\\ntwo\\nthree')", "ValueError", "one"),
        (
            "raise ValueError('cannot take (x:{\\n  1.5,\\n2.5\\n}) of type Odd')",
            "ValueError",
            "cannot take (x:{ ... }) of type Odd",
        ),
        (OF_KERAS, "ValueError", "in Dense.call(): Input 0 is odd"),
        ("import sys; sys.exit('no data in /data')", "", "its last line is: no data in /data"),
        ("import argparse; argparse.ArgumentParser(prog='t.py').parse_args(['--x'])", "", "t.py: error: unrecognized"),
        ("import sys; print('error: quota'); print('bye'); sys.exit(1)", "", "error: quota"),
        ("import sys; print('10%\\r20%\\rfailed at 30%'); sys.exit(1)", "", "failed at 30%"),
        (
            "import sys; print('ok'); print('INFO 0 errors failed'); sys.exit(1)",
            "",
            "its last line is: INFO 0 errors failed",
        ),
    ],
)
def test_the_last_error_of_what_python_prints(source: str, exception: str, message: str) -> None:
    found = last_error(printed_by(source))
    assert found is not None
    assert found.exception == exception
    assert found.message.startswith(message)
    assert "\n" not in found.message
    assert message or not found.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"bash: line 1: foo: command not found\n", "bash: line 1: foo: command not found"),
        (b"python: can't open file '/x/absent.py': [Errno 2] No such file or directory\n", "python: can't open file"),
        (b"killing\n2026-01-01 10:00:00.1: E x.cc:1] failed call to cuInit\n", "its last line is: 2026"),
        (b"\xff\xfe error\n", "\ufffd\ufffd error"),
    ],
)
def test_what_other_programs_print(text: bytes, message: str) -> None:
    found = last_error(text.splitlines(keepends=True))
    assert found is not None
    assert found.message.startswith(message)


def test_of_a_program_that_said_nothing_nothing_is_known() -> None:
    assert last_error([]) is None
    assert last_error([b"\n", b"  \n"]) is None


def test_an_error_long_ago_is_none() -> None:
    lines = [*printed_by("raise ValueError('caught')"), *[b"step\n"] * LINES_MAX]
    assert last_error(lines) == LastError("", "its last line is: step")


def program(status: int, told: LastError | None) -> tuple[int, str, str]:
    report = exit_report(Ending(attempt=1, status=status, phase=Phase.TRAIN, command=True, last_error=told))
    return report.code, report.exception, report.message


def test_the_report_of_a_program_has_its_exception_and_message() -> None:
    raised, spoke = LastError("ValueError", "no column age"), LastError("", "error: quota")
    assert program(1, raised) == (ExitCode.SCRIPT_FAILED, "ValueError", "no column age")
    assert program(3, spoke) == (ExitCode.SCRIPT_FAILED, "", "error: quota (exit code 3)")
    assert program(3, None) == (ExitCode.SCRIPT_FAILED, "", "it ended with exit code 3")
    assert program(78, spoke) == (ExitCode.CONFIGURATION, "", "error: quota")
    assert program(134, spoke) == (ExitCode.ABORTED, "", "error: quota")
    for status in (0, 137, 143):
        assert program(status, raised) == (status, "", ""), "what it printed before says nothing of this end"
