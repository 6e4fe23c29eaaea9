"""`replaykit`: finds the command, runs it, and turns what went wrong into one line."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from replaykit import __version__, extras
from replaykit.cli.typed import Command, Interrupted, as_given
from replaykit.cli.typed import command as typed_command
from replaykit.errors import UsageError
from replaykit.plain import discard_output, emit, say, visible

GROUPS = {
    "capture and look": {
        "capture": "captures live traffic and shows who uses the bandwidth",
        "report": "who uses the bandwidth, from capture, .gor and Parquet files",
        "exchanges": "every exchange of the files, as Parquet, JSONL, CSV, .gor or a table",
        "verify": "a second opinion on capture files, by other people's libraries",
        "demo": "serves and captures local traffic, and shows what came of it",
    },
    "replay and compare": {
        "replay": (
            "sends recorded requests to a target, at their own pace or another, and compares the responses"
        ),
        "diff": "what changed per endpoint between two recordings",
        "gate": "fails a CI run that uses more bandwidth than it may",
    },
    "ship and alert": {
        "ship": "exchanges of files to Elasticsearch, Kafka and other stores, through a spool on disk",
        "alert": "evaluates rules and tells people: shares, growth, errors, latency, loss",
        "run": "a whole declared pipeline: inputs, filters, middleware, outputs, alerts",
        "config": "checks files of pipelines, rules and mappings, and prints their JSON Schema for editors",
    },
    "over time": {
        "archive": "keeps an archive of Parquet in order: joins small files, deletes old ones",
        "anomalies": "bandwidth that the past does not explain, by endpoint",
        "export": "who used how much, from a ledger, by hour, day and month",
        "rules": "who may use how much: checks, explains and judges rules, and shows what they did",
        "cleanup": "deletes usage from a ledger: a span, a subject, or what is too old",
    },
    "vantages": {
        "forward": "hands on ports and hosts, counted and limited as the bytes move; with an API",
        "tunnel": "connects what is behind a NAT to a forwarder, and makes the keys for it",
        "users": "who used the interface, per user, from the kernel's counters; with limits",
        "machines": "what virtual machines moved, from Proxmox VE or libvirt; with limits",
        "serve": "the live page and the API over all vantages, from a ledger",
    },
}
OPTIONS = {
    "capture and look": "looking",
    "replay and compare": "replaying",
    "ship and alert": "shipping",
    "over time": "over_time",
    "vantages": "vantages",
}
"""Where the options of a group's commands are."""

COMMANDS = {name: text for commands in GROUPS.values() for name, text in commands.items()}


class _Commands(TyperGroup):
    """The commands, of which only the one that is called is loaded."""

    def get_params(self, ctx: Any) -> list[Any]:
        return as_given(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One line of help is all that the others are needed for."""
        group = next((g for g, names in GROUPS.items() if cmd_name in names), None)
        if group is None:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name], rich_help_panel=group, rich_markup_mode="rich")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            if ctx.resilient_parsing:  # a shell asks what may follow
                return None, None, args[1:]
            raise UsageError(
                f"there is no command {visible(args[0])!r}{near(args[0], COMMANDS)} (see replaykit --help)"
            )
        return args[0], load(args[0]), args[1:]


def load(name: str) -> Command:
    """A command with its options; what it runs is loaded when it does."""
    group = next(g for g, names in GROUPS.items() if name in names)
    module = importlib.import_module(f"replaykit.cli.options.{OPTIONS[group]}")

    def run(args: Any) -> int:
        return int(importlib.import_module(f"replaykit.cli.{name}").run(args))

    options = getattr(module, f"{name.capitalize()}Options")
    return typed_command(name, COMMANDS[name], options, run, module.EXAMPLES[name], group)


def _version(asked: bool) -> None:
    if asked:
        emit(f"replaykit {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="prints the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Who is using the bandwidth? `replaykit COMMAND --help` has a command's options and examples."""


def program() -> Any:
    """All of it, as Typer has it."""
    app = typer.Typer(
        cls=_Commands, rich_markup_mode="rich", no_args_is_help=False, invoke_without_command=True
    )
    app.callback()(_root)
    return typer.main.get_command(app)


def near(wrong: str, known: Iterable[str]) -> str:
    """What was probably meant; dashes, which all options share, say nothing."""
    names = {name.strip("-"): name for name in known}
    close = difflib.get_close_matches(wrong.strip("-"), names, 1)
    return f"; did you mean {names[close[0]]}?" if close else ""


def _refused(error: Any) -> str:
    """What Typer has against a command line, in a line."""
    context = getattr(error, "ctx", None)
    name = "replaykit" if context is None else context.command_path
    text = error.format_message().strip().rstrip(".").replace("Value error, ", "")
    wrong = getattr(error, "option_name", None)
    if wrong is not None and context is not None and error.__class__.__name__ == "NoSuchOption":
        text = f"there is no option {wrong}{near(wrong, [f for p in context.command.params for f in p.opts])}"
    return f"{name}: {' '.join(text.split())} (see {name} --help)"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a limit or comparison failed, 2 wrong use or input."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return int(program().main(arguments, prog_name="replaykit", standalone_mode=False) or 0)
    except UsageError as error:
        say(*(f"replaykit: {line}" for line in error.lines))
        return 2
    except typer.TyperException as error:
        say(_refused(error))
        return 2
    except ModuleNotFoundError as error:
        told = extras.missing(error)
        if told is None:
            raise
        say(f"replaykit: {told}")
        return 2
    except BrokenPipeError:
        discard_output()
        return 2 if arguments[0] == "gate" else 0  # a gate whose verdict nobody read has not passed
    except (KeyboardInterrupt, Interrupted):
        say("replaykit: interrupted; what was finished is written")
        return 130
