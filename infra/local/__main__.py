"""The commands of `./promo`. Exit codes: 0 done, 1 failed or broken, 2 wrong usage, 3 nothing is running."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from infra.local.failures import Failed, NotRunning
from infra.local.platform import ROLES
from infra.local.state import ROOT, State
from infra.local.terminal import Json, print_trace, say
from infra.local.topics import dlq, events

INTERRUPTED = 130  # by Ctrl-C, as shells say it

app = typer.Typer(
    help="The promotion platform on this machine: start it, look at it, try it, test it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(events, name="events")
app.add_typer(dlq, name="dlq")


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; it runs on.")] = False,
    instances: Annotated[str, typer.Option(help="How many of which worker: coupon=2,timesale=2.")] = "",
) -> None:
    """Start servers and processes, drive one real request through them, print its trace; stay until Ctrl-C.

    DATABASE_URL (a server), REDIS_URL, KAFKA_BROKERS, ETCD_HOSTS or JAEGER_QUERY_URL, in the environment or in .env,
    put yours in the place of a part.

    Example: ./promo up --instances coupon=2
    """
    from infra.local.down import detach as run_detached
    from infra.local.plan import parse_instances
    from infra.local.up import up as run_up

    counts = parse_instances(instances)
    state = State.of_this_checkout()
    if detach:
        run_detached(["--instances", instances], state, say)
    elif not asyncio.run(run_up(counts, state, say)):
        raise typer.Exit(INTERRUPTED)


@app.command()
def down() -> None:
    """Stop everything; the data stays.

    Example: ./promo down
    """
    from infra.local.down import down as run_down

    say("stopped" if run_down(State.of_this_checkout()) else "nothing was running")


@app.command()
def reset() -> None:
    """Stop everything and forget its data, logs and secrets.

    Example: ./promo reset && ./promo up
    """
    from infra.local.down import down as run_down

    state = State.of_this_checkout()
    run_down(state)
    state.forget()
    say(f"removed {state.folder}")


@app.command()
def status(as_json: Json = False) -> None:
    """Processes, ports, pids, URLs, connection strings, logs, state folder. Exit code 3 when nothing is running.

    Example: ./promo status --json | jq -r .urls.api
    """
    from infra.local.status import as_text, describe

    state = State.of_this_checkout()
    told = describe(state.run(), str(state.folder))
    say(json.dumps(told, indent=2) if as_json else "\n".join(as_text(told)))


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user's id; with --count its beginning.")],
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")] = "user",
    count: Annotated[int | None, typer.Option(min=1, help="One token for each of USER-1 to USER-COUNT.")] = None,
) -> None:
    """Print an access token, one a line, valid for a day.

    Example: ./promo token --user load --count 1000 > tokens.txt
    """
    from infra.local.plan import given_settings
    from infra.local.tokens import mint_many

    if role not in ROLES:
        raise typer.BadParameter(f"{role!r} is none of {', '.join(ROLES)}", param_hint="--role")
    run = State.of_this_checkout().find_run()
    secret = run.token_secret if run else given_settings(os.environ, ROOT).get("JWT_SECRET")
    if not secret:
        raise NotRunning("no secret to sign with: start the platform by ./promo up, or set JWT_SECRET")
    say("\n".join(mint_many(secret, user, role, count)))


@app.command()
def demo(
    buyers: Annotated[int, typer.Option(min=1, max=100_000, help="How many buyers.")] = 300,
    coupons: Annotated[int, typer.Option(min=1, help="How many coupons they rush.")] = 100,
    stock: Annotated[int, typer.Option(min=1, help="How many units they rush.")] = 100,
    as_json: Json = False,
) -> None:
    """A flash sale on the running platform: the rush, its result, the invariants, the slowest trace.

    Exit code 1 when more was given away than was on offer, or an invariant is broken.

    Example: ./promo demo --buyers 1000 --stock 50
    """
    from infra.local.demo import flash_sale
    from infra.local.verbs import ask_workers, show

    run = State.of_this_checkout().run()
    result = asyncio.run(flash_sale(run, buyers, coupons, stock, _silent if as_json else say))
    if not as_json:
        say("\n".join(result.as_text()))
    answers = ask_workers(run, ["invariants", "--json"] if as_json else ["invariants"])
    if as_json:
        say(json.dumps({**result.as_dict(), "invariants": {one.process: one.parsed() for one in answers}}))
    else:
        show(answers, say)
        if "traces" in run.urls:
            say("\nthe slowest request")
            print_trace(run.urls["traces"], result.slowest_trace)
    if result.faults() or any(answer.exit_code for answer in answers):
        raise typer.Exit(1)


@app.command()
def invariants(as_json: Json = False) -> None:
    """Check every invariant on the live data. Exit code 1 when one is broken.

    Example: ./promo invariants && echo sound
    """
    from infra.local.verbs import ask_workers, show

    run = State.of_this_checkout().run()
    answers = ask_workers(run, ["invariants", "--json"] if as_json else ["invariants"])
    if as_json:
        say(json.dumps({answer.process: answer.parsed() for answer in answers}))
    else:
        show(answers, say)
    if any(answer.exit_code for answer in answers):
        raise typer.Exit(1)


@app.command()
def trace(
    trace_id: Annotated[str, typer.Argument(help="The trace id: from `traceparent`, a problem, a log line.")],
) -> None:
    """One trace as a waterfall, from JAEGER_QUERY_URL or the running platform. Exit code 1 when it is unknown.

    Example: ./promo trace 4bf92f3577b34da6a3ce929d0e0e4736
    """
    from infra.local.plan import given_settings

    url = given_settings(os.environ, ROOT).get("JAEGER_QUERY_URL") or State.of_this_checkout().run().urls.get("traces")
    if url is None:
        raise Failed("nobody keeps traces here: set JAEGER_QUERY_URL")
    if not print_trace(url, trace_id):
        raise typer.Exit(1)


@app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Races, faults and fuzzing at full size.")] = False,
) -> None:
    """Run every test, on real servers of its own; further arguments go to pytest, whose exit code it returns.

    Example: ./promo test tests/unit -k coupon
    """
    command = [sys.executable, "-m", "pytest", *(["--full"] if full else []), *context.args]
    raise typer.Exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


@app.command()
def check() -> None:
    """Lint, types, architecture, contracts, generated files: a line each. Exit code 1 when one fails.

    Example: ./promo check
    """
    from infra.local.check import check as run_check

    if not run_check(say):
        raise typer.Exit(1)


@app.command()
def generate() -> None:
    """Write the generated files anew: protobuf code, OpenAPI.

    Example: ./promo generate && git diff --stat
    """
    from infra.local.generate import generate as run_generate

    run_generate(say)


def _silent(line: str) -> None:
    """For scripts, which read the result alone."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what a person can mend is one line on stderr and an exit code."""
    try:
        app(arguments, prog_name="./promo")
    except Failed as failed:
        print(f"promo: {failed}", file=sys.stderr)
        sys.exit(failed.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
