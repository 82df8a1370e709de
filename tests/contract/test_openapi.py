"""The API is what its document says: compared with the committed copy, the route table, and what is served."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from gateway import openapi, problems
from gateway.app import BASE, ROUTES
from gateway.auth import Tokens
from infra.caller import Role
from tests.fixtures.servers import Servers

DOCUMENT = openapi.document(BASE, ROUTES)
EXAMPLES_SHORT, EXAMPLES_FULL = 6, 60
ANSWER_SECONDS_MAX = 2.5
KEY = re.compile(r"[!-~]{1,255}")

# Rules that no schema can say: of two fields together, of what another row holds, of a sum.
BEYOND_SCHEMAS = ("createCouponPolicy", "createTimeSale", "earnPoints", "createOrder")
ACCEPTED = [200, 201, 401, 403, 404, 409, 429]
CONFIG = {
    "operations": [
        {
            "include-operation-id": list(BEYOND_SCHEMAS),
            "checks": {"positive_data_acceptance": {"expected-statuses": [*ACCEPTED, 400]}},
        }
    ]
}

schema = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))


@schema.hook
def filter_query(context: schemathesis.HookContext, query: dict[str, Any] | None) -> bool:
    """An unknown parameter without a value never leaves the client, so that it cannot be refused."""
    return not query or all(value not in ([], {}, None) for value in query.values())


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_committed_document_is_the_generated_one(repository: Path) -> None:
    committed = (repository / "gateway/openapi.json").read_bytes()
    made = orjson.dumps(DOCUMENT, option=orjson.OPT_INDENT_2) + b"\n"
    assert committed == made, "run: python -m gateway openapi > gateway/openapi.json"


def test_every_route_is_documented_and_nothing_else() -> None:
    assert {(method, path) for method, path, _ in operations()} == {(each.method, BASE + each.path) for each in ROUTES}


def test_operation_ids_are_unique_and_summaries_are_sentences() -> None:
    found = [operation for _, _, operation in operations()]
    assert len({each["operationId"] for each in found}) == len(found)
    assert all(re.match(r"[A-Z].{5,}", each["summary"]) for each in found)


def test_every_code_is_documented_with_its_example_and_status() -> None:
    examples = DOCUMENT["components"]["examples"]
    assert set(examples) == set(problems.PROBLEMS)
    for code, example in examples.items():
        assert example["value"]["code"] == code
        assert example["value"]["status"] == problems.PROBLEMS[code].status
    named = {code for codes in DOCUMENT["components"]["responses"] for code in codes.split(".")}
    # Every path answers an unknown method with 405, whatever the operation.
    assert named == set(problems.PROBLEMS) - {"METHOD_NOT_ALLOWED"}


def test_every_guarded_route_says_so_and_every_write_takes_a_key() -> None:
    for method, path, operation in operations():
        public = path.endswith(("/auth/register", "/auth/login", "/health"))
        assert operation["security"] == ([] if public else [{"bearer": []}])
        assert ("401" in operation["responses"]) == (not public or path.endswith("/login"))
        keyed = "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]]
        assert keyed == (method == "POST" and "/auth/" not in path)


def test_every_reference_leads_somewhere() -> None:
    for reference in set(re.findall(r'"#/([^"]+)"', orjson.dumps(DOCUMENT).decode())):
        found: Any = DOCUMENT
        for part in reference.split("/"):
            found = found[part]


@pytest.fixture(scope="module")
def served(servers: Servers, valkey: str) -> Iterator[tuple[str, str]]:
    """The platform in a process of its own, because schemathesis' client blocks: its URL and secret."""
    program = [sys.executable, "-m", "tests.fixtures.platforms", servers.database_url, valkey]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url, secret = process.stdout.readline().split()
        yield url, secret
        process.stdin.close()
        process.wait(20)


def hammer(case: schemathesis.Case[Any], served: tuple[str, str], role: Role) -> None:
    url, secret = served
    token = Tokens(secret, ttl_seconds=600, cache_size_max=1).mint("17", role)
    headers = {"Authorization": f"Bearer {token}"}
    if KEY.fullmatch(case.headers.get("Idempotency-Key", "")):  # another case's key is another case's answer
        case.headers["Idempotency-Key"] = uuid4().hex
    response = case.call(base_url=url, headers=headers)
    assert response.elapsed <= ANSWER_SECONDS_MAX
    case.validate_response(response, headers=headers)


@schema.parametrize()
@settings(max_examples=EXAMPLES_SHORT, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_what_is_served_is_what_the_document_says(case: schemathesis.Case[Any], served: tuple[str, str]) -> None:
    hammer(case, served, Role.ADMIN)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", list(Role))
@schema.parametrize()
@settings(max_examples=EXAMPLES_FULL, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_what_is_served_to_each_role_is_what_the_document_says(
    case: schemathesis.Case[Any], served: tuple[str, str], role: Role
) -> None:
    hammer(case, served, role)
