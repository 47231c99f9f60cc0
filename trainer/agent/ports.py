"""Where training processes listen."""

import random
import socket
from ipaddress import ip_address

from trainer.errors import OrchError

PORTS = range(20000, 32768)
"""Below the ephemeral range: no outgoing connection takes their port."""
_TRIES = 200


def free_port(address: str, index: int, workers: int, *, not_this: int = 0) -> int:
    """A port of worker `index` at `address` that is free now, and not the one of its last attempt (`not_this`).

    It is bound seconds later, by TensorFlow. Until then another worker on this machine could draw the same one: so they draw
    from ports of their own.

    Raises:
        OrchError: none is free.
    """
    ports = PORTS[index % workers :: workers] if _is_loopback(address) else PORTS
    for _ in range(_TRIES):
        port = random.choice(ports)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            if port != not_this:
                return port
    raise OrchError(f"no port is free on {address} between {PORTS.start} and {PORTS.stop}")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
