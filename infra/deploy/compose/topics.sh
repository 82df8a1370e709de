#!/bin/sh
# Makes the topics the platform needs; a topic that exists is left as it is.
set -eu
make() { /opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:9092 --create --if-not-exists --topic "$1" --partitions "$2" --replication-factor 1; }
for topic in coupon.issued coupon.used coupon.canceled coupon.expired point.earned point.spent point.canceled \
  timesale.created timesale.started timesale.ended timesale.soldout timesale.resumed order.created; do
  make "$topic" 12
  make "$topic.dlq" 3
done
