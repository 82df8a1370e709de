"""Consumes events: one poll is one transaction, a bad record is found, tried again and given up alone."""

from infra.consumer.consumer import Consumer
from infra.consumer.record import BadRecord, Record
from infra.consumer.work import AfterCommit, Handle

__all__ = ["AfterCommit", "BadRecord", "Consumer", "Handle", "Record"]
