"""The door of the point service: messages in, stories called, messages out."""

from infra.postgres import Database
from infra.rpc import call
from infra.rpc.server import Context
from point import look_up, messages
from point.cache import Cache
from point.cancel import cancel
from point.earn import earn
from point.post import Ledger
from point.spend import spend
from protos.point.v1 import point_pb2 as pb
from protos.point.v1.point_pb2_grpc import PointServiceServicer

SERVICE = pb.DESCRIPTOR.services_by_name["PointService"].full_name


class Points(PointServiceServicer):
    """`promo.point.v1.PointService`."""

    def __init__(self, database: Database, ledger: Ledger, cache: Cache) -> None:
        self._database, self._ledger, self._cache = database, ledger, cache

    async def EarnPoints(self, request: pb.EarnPointsRequest, context: Context) -> pb.Transaction:
        answer = await earn(
            self._ledger,
            command=call.command_of(request),
            user_id=request.user_id,
            amount=request.amount,
            description=request.description,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Transaction, answer)

    async def UsePoints(self, request: pb.UsePointsRequest, context: Context) -> pb.Transaction:
        answer = await spend(
            self._ledger,
            command=call.command_of(request),
            user_id=request.user_id,
            amount=request.amount,
            description=request.description,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Transaction, answer)

    async def CancelPoints(self, request: pb.CancelPointsRequest, context: Context) -> pb.Transaction:
        answer = await cancel(
            self._database,
            self._ledger,
            command=call.command_of(request),
            transaction_id=request.transaction_id,
            description=request.description,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Transaction, answer)

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.Balance:
        account = await look_up.balance(
            self._database, self._cache, caller=call.caller_of(request.caller), user_id=request.user_id
        )
        return messages.balance_message(account)

    async def GetHistory(self, request: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        rows, total = await look_up.history(
            self._database,
            caller=call.caller_of(request.caller),
            user_id=request.user_id,
            page=request.page,
            size=request.size,
        )
        return pb.GetHistoryResponse(
            points=map(messages.transaction_message, rows), total=total, page=request.page, size=request.size
        )
