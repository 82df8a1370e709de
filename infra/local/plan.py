"""What `promo up` will start, on which ports, and what it tells each process: decided before anything starts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from dotenv import dotenv_values

from infra.local.failures import StartFailed
from infra.local.platform import EDGE, OPERATIONS, PROCESSES, WORKERS, Process
from infra.local.ports import Wish, choose

INSTANCES_MAX = 8
DEFAULT_ENDPOINT = "localhost:4317"
ENDPOINT_NAMES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "JAEGER_ENDPOINT")
SECRETS = ("JWT_SECRET", "SERVICE_TOKEN_SECRET")
# The usual ports of what the stack starts itself.
SERVER_PORTS = {"postgres": 5432, "valkey": 6379, "kafka": 9092, "kafka-controller": 9093, "otlp": 4317, "query": 16686}


@dataclass(frozen=True)
class Instance:
    """One process to run, of one or several alike."""

    process: Process
    number: int
    ports: Mapping[str, int]

    @property
    def name(self) -> str:
        return self.process.name if self.number == 1 else f"{self.process.name}-{self.number}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[self.process.public]}"


@dataclass(frozen=True)
class Plan:
    """The instances, the ports of the servers, and the settings a person gave (environment over `.env`)."""

    instances: tuple[Instance, ...]
    server_ports: Mapping[str, int]
    given: Mapping[str, str]

    @property
    def edge_url(self) -> str:
        return f"http://{next(one.address for one in self.instances if one.process is EDGE)}"

    @property
    def ports(self) -> list[int]:
        """All ports of the plan."""
        return [*self.server_ports.values(), *(port for one in self.instances for port in one.ports.values())]

    @property
    def keeps_traces(self) -> bool:
        """Whether the stack runs its own trace backend: unless a person named one."""
        named = [self.given[name] for name in ENDPOINT_NAMES if name in self.given]
        return "JAEGER_QUERY_URL" not in self.given and all(endpoint == DEFAULT_ENDPOINT for endpoint in named)


def given_settings(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The settings a person gave: the environment, then `.env` in `folder`; an empty value counts as none."""
    from_file = dotenv_values(folder / ".env")
    return {name: value for name, value in {**from_file, **environment}.items() if value}


def parse_instances(text: str) -> dict[str, int]:
    """`coupon=2,point=3` as numbers.

    :raises StartFailed: another form, an unknown process, or a number out of range.
    """
    counts = dict.fromkeys((process.name for process in PROCESSES), 1)
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().partition("=")
        if name not in counts or name == EDGE.name:
            known = ", ".join(process.name for process in WORKERS)
            raise StartFailed(f"--instances: there is no worker {name!r}; there are {known}")
        if not number.isdecimal() or not 1 <= int(number) <= INSTANCES_MAX:
            raise StartFailed(f"--instances: {part.strip()!r} should look like {name}=2, at most {INSTANCES_MAX}")
        counts[name] = int(number)
    return counts


def make_plan(counts: Mapping[str, int], given: Mapping[str, str]) -> Plan:
    """Choose every port.

    :raises StartFailed: a port that was set is taken, or is no port.
    """
    wishes = [Wish(name, port) for name, port in SERVER_PORTS.items()]
    for process in PROCESSES:
        wishes += [_wish(process, setting, usual, given) for setting, usual in process.ports.items()]
        for number in range(2, counts[process.name] + 1):
            wishes += [Wish(f"{process.name}-{number} {setting}", None) for setting in process.ports]
    chosen = choose(wishes)
    instances = tuple(
        Instance(process, number, {setting: chosen[_key(process, number, setting)] for setting in process.ports})
        for process in PROCESSES
        for number in range(1, counts[process.name] + 1)
    )
    return Plan(instances, {name: chosen[name] for name in SERVER_PORTS}, given)


def environment(plan: Plan, instance: Instance, urls: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """What `instance` is told beyond the environment it inherits. `urls` are those of the servers."""
    process = instance.process
    told = {
        "SERVICE_NAME": process.service,
        "LOG_LEVEL": plan.given.get("LOG_LEVEL", "INFO"),
        "DATABASE_URL": database_url(urls["postgres"], process.database),
        "REDIS_URL": urls["valkey"],
        "KAFKA_BROKERS": urls["kafka"],
        "OTEL_TRACES_SAMPLER_ARG": plan.given.get("OTEL_TRACES_SAMPLER_ARG", "1.0"),
        **{setting: str(port) for setting, port in instance.ports.items()},
        **secrets,
    }
    if plan.keeps_traces:
        told["JAEGER_ENDPOINT"] = f"localhost:{plan.server_ports['otlp']}"
        told["JAEGER_QUERY_URL"] = f"http://127.0.0.1:{plan.server_ports['query']}"
    if process is EDGE:
        told |= {worker.addresses: ",".join(_addresses(plan.instances, worker)) for worker in WORKERS}
    return told


def database_url(server: str, database: str) -> str:
    """The server's URL with the database's name as its path; what follows a `?` stays."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{database}"))


def _addresses(instances: Iterable[Instance], process: Process) -> list[str]:
    return [instance.address for instance in instances if instance.process is process]


def _key(process: Process, number: int, setting: str) -> str:
    return f"{process.name} {setting}" if number == 1 else f"{process.name}-{number} {setting}"


def _wish(process: Process, setting: str, usual: int, given: Mapping[str, str]) -> Wish:
    names = (
        [f"{process.prefix}{setting}", setting]
        if process is EDGE and setting != OPERATIONS
        else [f"{process.prefix}{setting}"]
    )  # a bare GRPC_PORT or OPERATIONS_PORT would be meant for all of them at once
    for name in names:
        if name in given:
            if not given[name].isdecimal() or not 0 < int(given[name]) < 65536:
                raise StartFailed(f"{name} is {given[name]!r}, which is no port")
            return Wish(_key(process, 1, setting), int(given[name]), setting=name)
    return Wish(_key(process, 1, setting), usual)
