"""The one door to Kafka: a producer that heals itself, a consumer whose calls end, and headers as JSON."""

from infra.kafka.headers import Headers, as_bytes, as_json
from infra.kafka.producer import Ack, KafkaAway, Outgoing, Producer
from infra.kafka.source import Place, Raw, Source, error_type

__all__ = [
    "Ack",
    "Headers",
    "KafkaAway",
    "Outgoing",
    "Place",
    "Producer",
    "Raw",
    "Source",
    "as_bytes",
    "as_json",
    "error_type",
]
