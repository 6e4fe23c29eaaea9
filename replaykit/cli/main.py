"""`replaykit`: finds the command, runs it, and turns what went wrong into one line."""

from __future__ import annotations

import argparse
import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from replaykit import __version__, extras
from replaykit.cli import sparing
from replaykit.errors import UsageError
from replaykit.plain import discard_output, emit, say

GROUPS = {
    "capture and look": {
        "capture": "captures live traffic and shows who uses the bandwidth",
        "report": "who uses the bandwidth, from capture, .gor and Parquet files",
        "exchanges": "every exchange of the files, as Parquet, JSONL, CSV, .gor or a table",
        "verify": "a second opinion on capture files, by other people's libraries",
        "demo": "serves and captures local traffic, and shows what came of it",
    },
    "replay and compare": {
        "replay": "sends recorded requests to a target, at their own pace or another, and compares the answers",
        "diff": "what changed per endpoint between two recordings",
        "gate": "fails a CI run that uses more bandwidth than it may",
    },
    "ship and alert": {
        "ship": "exchanges of files to Elasticsearch, Kafka and other stores, through a spool on disk",
        "alert": "evaluates rules and tells people: shares, growth, errors, latency, loss",
        "run": "a whole declared pipeline: inputs, filters, middleware, outputs, alerts",
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
COMMANDS = {name: text for commands in GROUPS.values() for name, text in commands.items()}


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse's own swallows what cannot be written."""
        if message:
            emit(message) if file is sys.stdout else say(*message.splitlines())

    def error(self, message: str) -> None:  # type: ignore[override]
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """An option that is not there is named with the nearest that is."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            told = found.parser if "parser" in found else self
            flag = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
            near = _near(flag, told._option_string_actions) if flag else ""
            told.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return found


class _Root(Parser):
    """Its help has the commands in groups."""

    def format_help(self) -> str:
        width = min(shutil.get_terminal_size().columns, 110)
        lines = [
            "usage: replaykit COMMAND …", "", "Who is using the bandwidth? `replaykit COMMAND --help` has a command's options and examples.",
        ]  # fmt: skip
        for group, commands in GROUPS.items():
            lines += ["", f"{group}:"]
            for name, text in commands.items():
                lines += textwrap.wrap(
                    text, width, initial_indent=f"  {name:10} ", subsequent_indent=" " * 13
                )
        return "\n".join([*lines, "", "  --version  prints the version", "  --help     prints this", ""])


def _near(wrong: str, known: Iterable[str]) -> str:
    """What was probably meant; dashes, which all options share, say nothing."""
    names = {name.strip("-"): name for name in known}
    close = difflib.get_close_matches(wrong.strip("-"), names, 1)
    return f"; did you mean {names[close[0]]}?" if close else ""


def build(wanted: str | None = None) -> Parser:
    """The parser; only the wanted command's module is loaded."""
    parser = _Root(prog="replaykit")
    parser.add_argument("--version", action="version", version=f"replaykit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, help_text in COMMANDS.items():
        if wanted is None or wanted == name:
            module = importlib.import_module(f"replaykit.cli.{name}")
            sub = commands.add_parser(
                name,
                help=help_text,
                description=help_text[0].upper() + help_text[1:] + ".",
                epilog="example:\n  " + "\n  ".join(module.EXAMPLES),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.configure(sub)
            sub.set_defaults(run=module.run, parser=sub)
        else:
            commands.add_parser(name, help=help_text, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a limit or comparison failed, 2 wrong use or input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = next((a for a in arguments if a in COMMANDS), "")
    command = ""
    try:
        if not arguments:
            emit(build("").format_help())
            return 0
        if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise UsageError(
                f"there is no command {arguments[0]!r}{_near(arguments[0], COMMANDS)} (see replaykit --help)"
            )
        args = build(wanted).parse_args(arguments)
        command = args.command
        return int(args.run(args))
    except UsageError as error:
        say(f"replaykit: {error}")
        return 2
    except ModuleNotFoundError as error:
        told = extras.missing(error)
        if told is None:
            raise
        say(f"replaykit: {told}")
        return 2
    except BrokenPipeError:
        discard_output()
        return 2 if command == "gate" else 0  # a gate whose verdict nobody read has not passed
    except KeyboardInterrupt:
        say("replaykit: interrupted; what was finished is written")
        return 130


def command() -> int:
    """The program."""
    sparing.begin()
    return main()


if __name__ == "__main__":
    sys.exit(command())
