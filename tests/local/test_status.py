"""What `promo status` tells of a run."""

import os

from infra.local.state import Run, Running, started
from infra.local.status import as_text, describe


def run() -> Run:
    """A server that runs, and a process that ended, told with its secrets."""
    pid = os.getpid()
    told = {"DATABASE_URL": "postgresql://u:p@h:1/coupon_db", "JWT_SECRET": "very secret"}
    server = Running("valkey", pid, started(pid), "/logs/valkey.log", url="redis://h:1/0")
    ended = Running("coupon", pid, "long ago", "/logs/coupon.log", "h:3", "coupon-service", {"GRPC_PORT": 3}, told)
    return Run(
        Running("supervisor", pid, started(pid), "/logs/up.log"), (server, ended), {"api": "http://h/api/v1"}, True
    )


def test_a_script_is_told_of_every_process_and_of_no_token_secret() -> None:
    told = describe(run(), "/state")

    assert [(part["name"], part["state"]) for part in told["processes"]] == [("valkey", "ready"), ("coupon", "ended")]
    assert told["ready"] is False  # not all of it runs
    assert told["databases"] == {"coupon_db": "postgresql://u:p@h:1/coupon_db"}
    assert "very secret" not in str(told)


def test_a_person_is_told_where_things_are() -> None:
    text = "\n".join(as_text(describe(run(), "/state")))

    for fact in (
        "not ready",
        "redis://h:1/0",
        "grpc=3",
        "http://h/api/v1",
        "/logs/coupon.log",
        "/state",
        str(os.getpid()),
    ):
        assert fact in text
