"""`orch exec` over a connection whose other end is the test."""

import json
import socket
import sys
import threading
from typing import Any, cast

import pytest
from websocket import ABNF, WebSocket

from orchestrator.jobs import exec as terminal
from orchestrator.kube.client import Cluster


class OneCommand:
    """A cluster in which a command runs that ends when its stdin does."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        here, self._there = socket.socketpair()
        self._connection = WebSocket()
        self._connection.sock = here
        self._connection.connected = True

    def open_exec(self, pod: str, command: list[str], **options: Any) -> WebSocket:
        threading.Thread(target=self._run, daemon=True).start()
        return self._connection

    def _run(self) -> None:
        end = WebSocket()
        end.sock = self._there
        end.connected = True
        while not self.heard or self.heard[-1][0] != 255:
            self.heard.append(end.recv_frame().data)
        for channel, text in ((1, "read all\n"), (3, json.dumps({"status": "Success"}))):
            end.send(bytes([channel]) + text.encode(), ABNF.OPCODE_BINARY)


def test_without_a_stdin_the_commands_own_is_empty(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after `<&-`
    cluster = OneCommand()
    assert terminal.run(cast(Cluster, cluster), "digits-0", ["cat"]) == 0
    assert cluster.heard == [bytes([255, 0])]
    assert capfd.readouterr().out == "read all\n"
