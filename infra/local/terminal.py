"""What the commands share at the terminal."""

import asyncio
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def say(line: str) -> None:
    """A line for a person, at once also into a pipe."""
    print(line, flush=True)


def print_trace(url: str, trace_id: str) -> bool:
    """Print a trace as a waterfall. Whether it is known at `url`."""
    from infra.local.traces import fetch
    from infra.local.waterfall import render

    spans = asyncio.run(fetch(url, trace_id))
    say("\n".join(render(trace_id, spans)))
    return bool(spans)
