"""Which ports the stack uses: the usual ones, or free ones where the usual are taken."""

import contextlib
import random
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infra.local.failures import StartFailed

FREE_FROM, FREE_TO = 20000, 32767  # below the range that outgoing connections take theirs from
TRIES_MAX = 500


@dataclass(frozen=True)
class Wish:
    """A port somebody needs. `setting` is the name it was set explicitly under, if it was: then it is not replaced."""

    name: str
    port: int | None
    setting: str | None = None


def choose(wishes: Iterable[Wish]) -> dict[str, int]:
    """A port for each wish, all different: the one wished for if it is free, else any free one.

    :raises StartFailed: a port that was set explicitly is taken, or set twice.
    """
    wishes = sorted(wishes, key=lambda wish: wish.setting is None)  # what was set explicitly comes first
    chosen: dict[str, int] = {}
    for wish in wishes:
        if wish.port is not None and wish.port not in chosen.values() and is_free(wish.port):
            chosen[wish.name] = wish.port
        elif wish.setting is not None:
            raise StartFailed(f"port {wish.port} ({wish.setting}) is taken: free it, or set {wish.setting} to another")
        else:
            chosen[wish.name] = _free_port(besides=set(chosen.values()))
    return chosen


def free_ports(count: int) -> list[int]:
    """So many different free ports below 32768, drawn at random: two stacks that start at once rarely meet.

    :raises StartFailed: there are not so many.
    """
    return list(choose(Wish(str(number), None) for number in range(count)).values())


@contextlib.contextmanager
def reserved(ports: Iterable[int], host: str = "127.0.0.1") -> Iterator[None]:
    """Keep outgoing connections off these ports: some of the usual ones lie where the system takes theirs from.

    Each is bound and never listened on, so that a server (which sets SO_REUSEADDR, as all of ours do) may have it.
    """
    with contextlib.ExitStack() as stack:
        for port in ports:
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # it was taken a moment ago: its server will say so
                holder.bind((host, port))
        yield


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _free_port(besides: set[int]) -> int:
    for _ in range(TRIES_MAX):
        port = random.randint(FREE_FROM, FREE_TO)  # noqa: S311 - a draw, no secret
        if port not in besides and is_free(port):
            return port
    raise StartFailed(f"found no free port between {FREE_FROM} and {FREE_TO}")
