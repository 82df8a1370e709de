"""One running platform for all end-to-end tests: two instances of everything. What a test breaks it mends."""

from collections.abc import AsyncIterator

import pytest

from tests.fixtures.platform import Platform, running


@pytest.fixture(scope="session")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """Two gateways and two of each worker; at the end every invariant must hold."""
    counts = {"gateway": 2, "coupon": 2, "point": 2, "timesale": 2}
    async with running(tmp_path_factory.mktemp("platform") / "state", counts) as started:
        yield started
        assert await started.broken_invariants() == {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test starts the platform, within its own time."""
    for item in items:
        if item.path.parent.name == "e2e":
            item.add_marker(pytest.mark.timeout(180))
