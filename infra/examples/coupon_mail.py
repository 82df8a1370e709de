"""A program outside the platform: writes a mail for each coupon that was issued, once, and tells under which trace.

    python -m infra.examples.coupon_mail --database-url postgresql://... --kafka-brokers 127.0.0.1:9092

It makes its tables in the database it is given, consumes as the group `coupon-mail`, and ends with Ctrl-C.
"""

import argparse
import asyncio
import contextlib

from infra import logs, postgres, subscribe, telemetry
from infra.subscribe import Conn, Record
from protos.events.v1.coupon_events_pb2 import CouponIssued

GROUP = "coupon-mail"
TABLE = "CREATE TABLE IF NOT EXISTS mails (coupon_id bigint PRIMARY KEY, user_id text NOT NULL, text text NOT NULL)"

log = logs.get_logger(__name__)


async def write_mail(conn: Conn, event: Record) -> None:
    """The mail and the memory of the event commit together; there is never a second mail for a coupon."""
    coupon = event.message(CouponIssued)
    text = f"Dear {coupon.user_id}, your coupon {coupon.id} is valid until {coupon.expiration_time.ToJsonString()}."
    await conn.execute(
        "INSERT INTO mails (coupon_id, user_id, text) VALUES ($1, $2, $3)", coupon.id, coupon.user_id, text
    )
    log.info("mail.written", coupon_id=coupon.id, event_id=str(event.event_id), traceparent=event.traceparent)


async def consume(database_url: str, kafka_brokers: str, topic_prefix: str = "") -> None:
    """Consume until cancelled."""
    settings = subscribe.settings(
        GROUP, database_url=database_url, kafka_brokers=kafka_brokers, topic_prefix=topic_prefix
    )
    logs.configure(settings)
    telemetry.start(settings)
    await subscribe.migrate(settings)
    async with postgres.open(settings) as pool:
        async with pool.connection() as conn:
            await conn.execute(TABLE)
        await subscribe.run(settings, pool, group=GROUP, topics=["coupon.issued"], handle=write_mail)


def main() -> None:
    """Read the arguments and consume until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m infra.examples.coupon_mail", description=__doc__)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--kafka-brokers", required=True)
    parser.add_argument("--topic-prefix", default="")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(consume(given.database_url, given.kafka_brokers, given.topic_prefix))
    telemetry.shutdown()


if __name__ == "__main__":
    main()
