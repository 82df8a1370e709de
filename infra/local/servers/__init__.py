"""The real servers as child processes: Postgres, Valkey, Apache Kafka and etcd, all on loopback."""

from infra.local.servers.etcd import start_etcd
from infra.local.servers.kafka import create_topics, start_kafka
from infra.local.servers.postgres import start_postgres
from infra.local.servers.server import Server
from infra.local.servers.valkey import start_valkey

__all__ = ["Server", "create_topics", "start_etcd", "start_kafka", "start_postgres", "start_valkey"]
