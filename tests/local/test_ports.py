"""Ports: the usual ones, else free ones, and a clear word about one that was asked for."""

import socket
from collections.abc import Iterator

import pytest

from infra.local.failures import StartFailed
from infra.local.plan import make_plan, parse_instances
from infra.local.ports import Wish, choose, free_ports, is_free, reserved


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_wish_for_a_free_port_is_granted() -> None:
    (port,) = free_ports(1)

    assert choose([Wish("some", port)]) == {"some": port}


def test_a_taken_usual_port_is_replaced_by_a_free_one_below_the_outgoing_range(taken: int) -> None:
    chosen = choose([Wish("some", taken)])["some"]

    assert chosen != taken
    assert chosen < 32768
    assert is_free(chosen)


def test_a_taken_port_that_was_set_explicitly_is_one_clear_sentence(taken: int) -> None:
    with pytest.raises(StartFailed, match=rf"^port {taken} \(PORT\) is taken: free it, or set PORT to another$"):
        choose([Wish("gateway", taken, setting="PORT")])


def test_two_wishes_never_share_a_port_and_the_explicit_one_has_it() -> None:
    (port,) = free_ports(1)
    chosen = choose([Wish("usual", port), Wish("explicit", port, setting="PORT")])

    assert chosen["explicit"] == port
    assert chosen["usual"] != port


def test_a_reserved_port_is_free_for_a_server() -> None:
    (port,) = free_ports(1)
    with (
        reserved([port]),
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"it")

        assert accepted.recv(2) == b"it"


def test_a_reserved_port_is_not_free_for_an_outgoing_connection() -> None:
    (port,) = free_ports(1)
    with reserved([port]), socket.socket() as outgoing, pytest.raises(OSError, match="in use"):
        outgoing.bind(("127.0.0.1", port))
    with socket.socket() as outgoing:
        outgoing.bind(("127.0.0.1", port))


def test_reserving_a_taken_port_is_left_to_its_server_to_tell(taken: int) -> None:
    with reserved([taken]):
        assert not is_free(taken)


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert all(is_free(port) and port < 32768 for port in ports)


def test_a_plan_gives_every_instance_ports_of_its_own_and_takes_those_that_were_set() -> None:
    port, operations, rpc = free_ports(3)
    given = {"PORT": str(port), "GATEWAY_OPERATIONS_PORT": str(operations), "COUPON_GRPC_PORT": str(rpc)}
    plan = make_plan(parse_instances("coupon=3"), given)
    ports = [port for instance in plan.instances for port in instance.ports.values()]
    found = {instance.name: instance.ports for instance in plan.instances}

    assert len(ports) == len(set(ports)) == 12
    assert list(found) == ["gateway", "coupon", "coupon-2", "coupon-3", "point", "timesale"]
    assert found["gateway"] == {"PORT": port, "OPERATIONS_PORT": operations}
    assert found["coupon"]["GRPC_PORT"] == rpc


def test_a_bare_grpc_port_is_nobodys_for_it_would_be_three_workers() -> None:
    (rpc,) = free_ports(1)
    plan = make_plan(parse_instances(""), {"GRPC_PORT": str(rpc)})

    assert rpc not in [port for instance in plan.instances for port in instance.ports.values()]


@pytest.mark.parametrize("value", ["x", "0", "65536", "-1"])
def test_what_is_no_port_is_said(value: str) -> None:
    with pytest.raises(StartFailed, match="which is no port"):
        make_plan(parse_instances(""), {"PORT": value})


@pytest.mark.parametrize("text", ["coupon", "coupon=0", "coupon=9", "coupon=x", "gateway=2", "nobody=2"])
def test_instances_that_make_no_sense_are_said(text: str) -> None:
    with pytest.raises(StartFailed, match="--instances"):
        parse_instances(text)
