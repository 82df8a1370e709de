"""One trace shows a request from the REST call to the last write of the last consumer."""

from functools import partial

from tests.fixtures.platform import Platform, together, unique
from tests.fixtures.shopping import issue, make_policy, make_sale, order
from tests.fixtures.traces import Span, Tree

COUPON_ISSUE = """\
S api-gateway POST /api/v1/coupons/issue
  C api-gateway EVALSHA rate_limit
  C api-gateway promo.coupon.v1.CouponService/IssueCoupon
    S coupon promo.coupon.v1.CouponService/IssueCoupon
      I coupon coupon.issue
        C coupon HMGET coupon:inventory
        I coupon batch coupon.policy
          C coupon BEGIN
          C coupon SELECT policies
          C coupon SELECT commands
          C coupon SELECT coupons
          C coupon INSERT coupons
          C coupon INSERT commands
          C coupon INSERT outbox
          C coupon UPDATE policies
          C coupon COMMIT
          C coupon EVALSHA set_view
        P coupon send coupon.issued
          N point process coupon.issued
  I api-gateway serialize response"""

ORDER = """\
S api-gateway POST /api/v1/orders
  C api-gateway EVALSHA rate_limit
  C api-gateway promo.timesale.v1.TimeSaleService/CreateOrder
    S timesale promo.timesale.v1.TimeSaleService/CreateOrder
      I timesale order.create
        C timesale HMGET timesale:inventory
        I timesale batch timesale.sale
          C timesale BEGIN
          C timesale SELECT sales
          C timesale SELECT buyers
          C timesale SELECT commands
          C timesale INSERT orders
          C timesale INSERT commands
          C timesale INSERT outbox
          C timesale UPSERT buyers
          C timesale UPDATE sales
          C timesale COMMIT
          C timesale EVALSHA set_view
        P timesale send order.created
          N point process order.created
  I api-gateway serialize response"""

CROWD = 24
# Below a consumer's `process` span: every write of the points, and the event of that in turn.
EARNING = [
    "BEGIN",
    "INSERT inbox",
    "INSERT journal",
    "UPDATE balances",
    "INSERT outbox",
    "COMMIT",
    "send point.earned",
]


async def test_one_coupon_issue_is_one_tree_down_to_the_last_write_of_its_consumer(platform: Platform) -> None:
    policy, user = await make_policy(platform, bonusPoints=50), unique()
    reply = await issue(platform, policy, user)
    tree = await platform.trace(reply.trace_id, is_earned)

    assert tree.outline(cut=is_below_a_consumer) == COUPON_ISSUE
    assert_it_earns(tree, "coupon.issued", reply.expect(201)["id"])
    story = tree.one("coupon.issue")
    assert story.events == ("coupon.issued",)
    assert story.attributes["user.id"] == user
    assert_the_batch_was_alone(tree.one("batch coupon.policy"))
    assert await platform.points(user) == 50


async def test_one_order_is_one_tree_down_to_the_last_write_of_its_consumer(platform: Platform) -> None:
    sale, user = await make_sale(platform, rewardPoints=5), unique()
    reply = await order(platform, sale, user, quantity=2)
    tree = await platform.trace(reply.trace_id, is_earned)

    assert tree.outline(cut=is_below_a_consumer) == ORDER
    assert_it_earns(tree, "order.created", reply.expect(201)["id"])
    assert_the_batch_was_alone(tree.one("batch timesale.sale"))
    assert await platform.points(user) == 2 * 7_000 * 5 // 100


async def test_the_relay_and_the_poll_are_trees_of_their_own_that_link_to_what_they_carry(platform: Platform) -> None:
    policy = await make_policy(platform, bonusPoints=1)
    reply = await issue(platform, policy, unique())
    send = (await platform.trace(reply.trace_id, is_earned)).one("send coupon.issued")
    (link,) = send.links
    relay = await platform.trace(link.trace_id, lambda tree: tree.has("UPDATE outbox"))

    assert link.kind == "relay"
    assert relay.outline() == "I coupon relay outbox\n  C coupon SELECT outbox\n  C coupon UPDATE outbox"
    assert relay.one("relay outbox").span_id == link.span_id


async def test_each_of_a_crowd_has_a_whole_trace_of_its_own(platform: Platform) -> None:
    """They travel, commit and are consumed together; each trace still shows its own way, to its consumer's writes."""
    policy = await make_policy(platform, bonusPoints=5)
    replies = await together([partial(issue, platform, policy, unique()) for _ in range(CROWD)])
    trees = [await platform.trace(reply.trace_id, is_earned) for reply in replies]

    batches = [tree.one("batch coupon.policy") for tree in trees]
    leaders = {batch.span_id for batch in batches if batch.attributes["promo.batch.role"] == "leader"}
    assert max(batch.attributes["promo.batch.size"] for batch in batches) > 1  # they did share a commit
    for reply, tree, batch in zip(replies, trees, batches, strict=True):
        assert tree.one("process coupon.issued").parent_id == tree.one("send coupon.issued").span_id
        assert {link.span_id for link in batch.links} <= leaders
        assert (batch.span_id in leaders) == (batch.links == ())
        assert (batch.span_id in leaders) == tree.has("INSERT coupons")
        assert [
            each.name for each in tree.children(tree.one("process coupon.issued")) if each.name in EARNING
        ] == EARNING
        assert tree.one("send coupon.issued").attributes["messaging.kafka.message.key"] == reply.expect(201)["id"]
        assert tree.orphans() == []


async def test_a_wallet_asks_the_three_workers_at_the_same_time(platform: Platform) -> None:
    user = unique()
    reply = await platform.get(f"/users/{user}/wallet", user=user)
    tree = await platform.trace(reply.trace_id, lambda tree: len([s for s in tree.spans if s.kind == "S"]) == 4)
    root = tree.one("GET /api/v1/users/{userId}/wallet")
    calls = [span for span in tree.children(root) if span.name.startswith("promo.")]

    assert {span.name.rpartition("/")[2] for span in calls} == {"GetUserCoupons", "GetBalance", "GetUserOrders"}
    assert max(span.start_ns for span in calls) < min(span.end_ns for span in calls)
    assert root.attributes["promo.partial"] is False


async def test_a_refusal_is_a_short_trace_without_a_red_span(platform: Platform) -> None:
    policy = await make_policy(platform, totalQuantity=1)
    (await issue(platform, policy, unique())).expect(201)
    reply = await issue(platform, policy, unique())
    tree = await platform.trace(reply.trace_id, lambda tree: tree.has("coupon.issue"))

    assert reply.code == "SOLD_OUT"
    assert [span.name for span in tree.spans if span.error] == []
    assert tree.one("POST /api/v1/coupons/issue").attributes["promo.refusal.code"] == "SOLD_OUT"
    assert not tree.has("INSERT coupons")


def is_earned(tree: Tree) -> bool:
    """Every span of it has arrived: the consumer's and, after them, the last send."""
    consumers = [span for span in tree.spans if span.kind == "N"]
    return tree.has("send point.earned", "serialize response") and all(tree.children(span) for span in consumers)


def is_below_a_consumer(span: Span) -> bool:
    return span.service == "point-service" and span.kind != "N"


def earning(tree: Tree, topic: str) -> list[Span]:
    """What matters of what the consumer of an event does."""
    return [span for span in tree.children(tree.one(f"process {topic}")) if span.name in EARNING]


def assert_it_earns(tree: Tree, topic: str, key: str) -> None:
    """The event hangs under the request's story by parent, under the relay and the send by link, and gives points."""
    send, process = tree.one(f"send {topic}"), tree.one(f"process {topic}")
    (to_relay,), (to_send,) = send.links, process.links
    assert to_relay.kind == "relay"
    assert to_relay.trace_id != tree.spans[0].trace_id
    assert (to_send.kind, to_send.span_id) == ("send", send.span_id)
    assert process.parent_id == send.span_id
    assert send.attributes["messaging.kafka.message.key"] == key
    assert send.attributes["messaging.message.id"] == process.attributes["messaging.message.id"]
    assert send.attributes["promo.outbox.age_ms"] >= 0
    assert [span.name for span in earning(tree, topic)] == EARNING
    assert [span.kind for span in earning(tree, topic)] == [*"CCCCCC", "P"]
    assert {span.service for span in tree.below(process)} == {"point-service"}
    assert [span.name for span in tree.spans if span.error] == []


def assert_the_batch_was_alone(batch: Span) -> None:
    assert batch.attributes["promo.batch.size"] == 1
    assert batch.attributes["promo.batch.role"] == "leader"
    assert batch.attributes["promo.batch.wait_ms"] >= 0
    assert batch.attributes["promo.batch.commit_ms"] > 0
    assert batch.links == ()
