"""What of the checkout the house tests read: the files git knows, or would take."""

import ast
import importlib
import pkgutil
from functools import cache
from pathlib import Path

from infra.local.state import ROOT
from infra.local.tools import tracked

WORKERS = ("coupon", "point", "timesale")
PACKAGES = (*WORKERS, "gateway", "infra")


@cache
def files(*patterns: str) -> tuple[str, ...]:
    """Paths below the root, `/` between their parts."""
    return tuple(tracked(*patterns))


@cache
def python(*folders: str) -> tuple[str, ...]:
    """Our Python below these folders; what is generated is not ours."""
    found = files(*(f"{folder}/**/*.py" for folder in folders), *(f"{folder}/*.py" for folder in folders))
    return tuple(path for path in found if "_pb2" not in path)


@cache
def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree(path: str) -> ast.Module:
    return ast.parse(text(path))


def exists(path: str | Path) -> bool:
    return (ROOT / path).exists()


@cache
def import_everything() -> None:
    """Every module of the services and the platform, as no single process has them."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
