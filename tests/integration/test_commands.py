"""What a database remembers of write demands, and what a repeat is told."""

from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import asyncpg
import pytest

from infra import commands, postgres
from infra.caller import Caller, Command, Role
from infra.commands import Known, Outcome
from infra.errors import KeyReused, Kind, Refused
from infra.settings import Settings
from tests.conftest import MakeDatabase
from tests.fixtures.databases import INFRA, set_clock

KEYED = uuid5(NAMESPACE_URL, "a client's key")


class Gone(Refused):
    kind, code, final = Kind.STATE, "GONE", True


class NotYet(Refused):
    kind, code = Kind.STATE, "NOT_YET"


def command(command_id: UUID = KEYED, fingerprint: bytes = b"\x01same") -> Command:
    return Command(Caller("u-1", Role.USER), command_id, fingerprint)


async def saved(make_database: MakeDatabase, *outcomes: Outcome) -> dict[UUID, Known]:
    settings = Settings.model_validate({"database_url": await make_database(INFRA)})
    async with postgres.open(settings) as database:
        async with database.transaction() as conn:
            await commands.save(conn, outcomes)
        async with database.connection() as conn:
            _, known = await commands.read_facts(conn, [outcome.command.command_id for outcome in outcomes])
    return known


async def test_an_answer_is_found_again_by_its_command_id(make_database: MakeDatabase) -> None:
    other = uuid4()
    known = await saved(
        make_database,
        Outcome(command(), "IssueCoupon", answer=b"coupon"),
        Outcome(command(other), "IssueCoupon", answer=b""),
    )
    assert commands.replay(known[KEYED], command()) == b"coupon"
    assert commands.replay(known[other], command(other)) == b""


async def test_unknown_commands_still_get_the_clock(make_database: MakeDatabase) -> None:
    url = await make_database(INFRA)
    await set_clock(url, "timestamptz '2026-05-01T09:00:00Z'")
    async with (
        postgres.open(Settings.model_validate({"database_url": url})) as database,
        database.connection() as conn,
    ):
        at, known = await commands.read_facts(conn, [KEYED, uuid4()])
    assert at.isoformat() == "2026-05-01T09:00:00+00:00"
    assert known == {}


async def test_a_final_refusal_is_stored_under_a_clients_key_and_told_again(make_database: MakeDatabase) -> None:
    known = await saved(make_database, Outcome(command(), "UseCoupon", refusal=Gone(available=7)))
    with pytest.raises(Refused) as refused:
        commands.replay(known[KEYED], command())
    assert (refused.value.kind, refused.value.code, refused.value.facts) == (Kind.STATE, "GONE", {"available": 7})


async def test_turning_refusals_are_not_stored_nor_final_ones_without_a_key(make_database: MakeDatabase) -> None:
    without_key = command(uuid4())
    assert not without_key.keyed
    known = await saved(
        make_database,
        Outcome(command(), "IssueCoupon", refusal=NotYet()),
        Outcome(without_key, "UseCoupon", refusal=Gone()),
    )
    assert known == {}


async def test_another_request_under_the_same_key_is_refused(make_database: MakeDatabase) -> None:
    known = await saved(make_database, Outcome(command(), "IssueCoupon", answer=b"coupon"))
    with pytest.raises(KeyReused):
        commands.replay(known[KEYED], command(fingerprint=b"\x01other"))


async def test_fingerprints_of_another_version_are_not_compared(make_database: MakeDatabase) -> None:
    known = await saved(make_database, Outcome(command(), "IssueCoupon", answer=b"coupon"))
    assert commands.replay(known[KEYED], command(fingerprint=b"\x02other")) == b"coupon"


async def test_a_repeat_in_the_same_batch_is_told_what_the_first_was() -> None:
    answered = Outcome(command(), "IssueCoupon", answer=b"coupon")
    assert commands.repeat(answered, command()) == commands.Answer(b"coupon", replayed=True)
    refused = Outcome(command(), "IssueCoupon", refusal=NotYet())
    with pytest.raises(NotYet):
        commands.repeat(refused, command())
    for outcome in (answered, refused):
        with pytest.raises(KeyReused):
            commands.repeat(outcome, command(fingerprint=b"\x01other"))


async def test_a_command_is_stored_once(make_database: MakeDatabase) -> None:
    outcome = Outcome(command(), "IssueCoupon", answer=b"coupon")
    with pytest.raises(asyncpg.UniqueViolationError) as twice:
        await saved(make_database, outcome, outcome)
    assert postgres.classify(twice.value) is postgres.Failure.AGAIN_AT_ONCE


@pytest.mark.parametrize(("role", "may"), [(Role.USER, False), (Role.ADMIN, True), (Role.SERVICE, True)])
def test_a_user_acts_for_itself_only(role: Role, may: bool) -> None:
    caller = Caller("u-1", role)
    assert caller.may_act_for("u-1")
    assert caller.may_act_for("u-2") is may
