"""`python -m trainer.agent` runs an agent; `python -m trainer.agent state` prints the coordinator's view of the job."""

import os
import signal
import sys

if __name__ == "__main__" and sys.argv[1:] != ["state"]:
    # PID 1 of a container ignores every signal that it has no handler for, and what is imported below takes its time.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))

import http.client

from trainer.agent.link import CoordinatorClient
from trainer.agent.start import main
from trainer.cluster import identity
from trainer.errors import OrchError


def _state() -> int:
    try:
        who = identity({**os.environ, "ORCH_ADDRESS": os.environ.get("ORCH_ADDRESS", "127.0.0.1")})
        sys.stdout.buffer.write(CoordinatorClient(who.coordinator, who.token).state().to_json() + b"\n")
    except (OrchError, OSError, http.client.HTTPException, ValueError) as error:
        print(f"error: the coordinator does not answer: {error}", file=sys.stderr)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(_state() if sys.argv[1:] == ["state"] else main())
