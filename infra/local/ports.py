"""Which ports the stack may use: the usual ones, or free ones where the usual are taken."""

import random
import socket

from infra.local.child import StartFailed

FREE_FROM, FREE_TO = 20000, 32767  # below the range that outgoing connections take theirs from
TRIES_MAX = 500


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """So many different free ports below 32768, drawn at random: two stacks that start at once rarely meet.

    :raises StartFailed: there are not so many.
    """
    found: set[int] = set()
    for _ in range(TRIES_MAX):
        if len(found) == count:
            return list(found)
        port = random.randint(FREE_FROM, FREE_TO)  # noqa: S311 - a draw, no secret
        if port not in found and is_free(port):
            found.add(port)
    raise StartFailed(f"found only {len(found)} of {count} free ports between {FREE_FROM} and {FREE_TO}")
