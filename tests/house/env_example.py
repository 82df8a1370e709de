"""Writes `.env.example` from the settings classes: `python -m tests.house.env_example > .env.example`.

A name whose default is the same for all who have it stands bare; else once for each process, with its prefix.
"""

import inspect
import re
import sys
from collections.abc import Iterator

from coupon.settings import CouponSettings
from gateway.settings import GatewaySettings
from infra.settings import Settings, WorkerSettings
from point.settings import PointSettings
from timesale.settings import TimesaleSettings

PROCESSES: dict[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "coupon": CouponSettings,
    "point": PointSettings,
    "timesale": TimesaleSettings,
}
HEAD = """\
# Every setting and its default. Copy to `.env` and keep the lines you change; the environment wins over the file.
# A name may carry its process as prefix (COUPON_, POINT_, TIMESALE_, GATEWAY_), which wins over the bare one.
"""
TITLES: dict[type[Settings], str] = {
    Settings: "every process",
    WorkerSettings: "every worker",
    GatewaySettings: "gateway",
    CouponSettings: "coupon",
    PointSettings: "point",
    TimesaleSettings: "timesale",
}
FIELD = re.compile(r"^    (?P<name>[a-z_0-9]+): [^#]*?(?:#\s*(?P<comment>.*))?$", re.MULTILINE)


def lines() -> Iterator[str]:
    """The file, line by line."""
    yield HEAD
    for cls, title in TITLES.items():
        yield f"# --- {title} ---"
        comments = {match["name"]: match["comment"] for match in FIELD.finditer(inspect.getsource(cls))}
        for name in cls.__annotations__:
            if comments.get(name):
                yield f"# {comments[name]}"
            yield from _settings(name, cls)
        yield ""


def _settings(name: str, cls: type[Settings]) -> Iterator[str]:
    holders = {process: each for process, each in PROCESSES.items() if name in each.model_fields}
    if next((each for each in TITLES if name in each.__annotations__), cls) is not cls:
        return  # an override: it stands where the name is first declared
    defaults = {process: _text(each.model_fields[name].default) for process, each in holders.items()}
    if len(set(defaults.values())) == 1:
        yield f"{name.upper()}={next(iter(defaults.values()))}"
        return
    for process, default in defaults.items():
        yield f"{process.upper()}_{name.upper()}={default}"


def _text(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()).rstrip() + "\n")
