"""What the commands share at the terminal."""

import asyncio
import os
import sys
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def say(line: str) -> None:
    """A line for a person, at once also into a pipe; a reader that left is no reason to fail."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # also for what is flushed at the end


def print_trace(url: str, trace_id: str) -> bool:
    """Print a trace as a waterfall. Whether it is known at `url`."""
    from infra.local.traces import fetch
    from infra.local.waterfall import render

    spans = asyncio.run(fetch(url, trace_id))
    say("\n".join(render(trace_id, spans)))
    return bool(spans)
