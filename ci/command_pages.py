"""Writes docs/cli.md and the manual pages from the commands themselves: python -m ci.command_pages.

A test says when they are old.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replaykit.cli.main import GROUPS, load
from replaykit.cli.typed import Command

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"
MANUAL = ROOT / "docs" / "man"
_STATUS = (
    "0: done. 1: a limit was exceeded, or a comparison found a difference. 2: wrong use or input, with one"
    " line on standard error."
)


@dataclass(frozen=True)
class Row:
    """An option or argument: how it is written, and what it is for."""

    written: str
    text: str


@dataclass(frozen=True)
class Told:
    """A command, as both kinds of page tell it. panels: titles to rows, the arguments first."""

    name: str
    help: str
    usage: str
    panels: dict[str, list[Row]]
    examples: list[str]


def told(name: str) -> Told:
    command: Command = load(name)
    panels: dict[str, list[Row]] = {}
    arguments = []
    for parameter in command.params:
        option: Any = parameter
        if getattr(option, "hidden", False):
            continue
        if not getattr(option, "opts", [""])[0].startswith("-"):
            several = "..." if option.nargs == -1 else ""
            arguments.append(
                f"{option.metavar}{several}" if option.required else f"[{option.metavar}]{several}"
            )
            panels.setdefault("", []).insert(len(arguments) - 1, Row(str(option.metavar), option.help or ""))
            continue
        value = "" if option.is_flag else f" {option.metavar}"
        flags = ", ".join([*option.opts, *option.secondary_opts])
        panels.setdefault(option.rich_help_panel or "", []).append(Row(f"{flags}{value}", option.help or ""))
    usage = " ".join(["replaykit", name, "[OPTIONS]", *arguments])
    return Told(name, command.help or "", usage, panels, command.examples)


def page() -> str:
    """docs/cli.md: all commands with their options, by group."""
    lines = [
        "# Commands",
        "",
        "Made from the program by `make pages`, as are the manual pages in docs/man. Exit status:",
        _STATUS,
        (
            "`replaykit --install-completion` makes the shell (bash, zsh, fish) complete commands, options"
            " and their values."
        ),
    ]
    for group, names in GROUPS.items():
        lines += ["", f"## {group[0].upper()}{group[1:]}"]
        for name in names:
            lines += ["", *_section(told(name))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _section(command: Told) -> Iterator[str]:
    yield from (f"### {command.name}", "", command.help, "", "```sh", command.usage, *command.examples, "```")
    for title, rows in command.panels.items():
        if title:
            yield from ("", f"{title[0].upper()}{title[1:]}:")
        yield ""
        for row in rows:
            yield f"- `{row.written}`" + (f": {row.text}" if row.text else "")


def manual(command: Told) -> str:
    """A page of section 1."""
    lines = [
        f'.TH REPLAYKIT\\-{command.name.upper()} 1 "" replaykit "replaykit"', ".SH NAME",
        f"replaykit\\-{command.name} \\- {_roff(command.help.rstrip('.'))}", ".SH SYNOPSIS",
        f".B {_roff(command.usage)}",
    ]  # fmt: skip
    for title, rows in command.panels.items():
        lines.append(f".SH {_roff(title.upper()) or 'ARGUMENTS AND OPTIONS'}")
        for row in rows:
            lines += [".TP", f".B {_roff(row.written)}", _roff(row.text) or "\\&"]
    lines += [".SH EXAMPLES"]
    for example in command.examples:
        lines += [".PP", ".nf", _roff(example), ".fi"]
    lines += [".SH EXIT STATUS", _roff(_STATUS), ".SH SEE ALSO", ".BR replaykit (1)"]
    return "\n".join(lines) + "\n"


def overview() -> str:
    """replaykit(1): the commands, by group."""
    lines = [
        '.TH REPLAYKIT 1 "" replaykit "replaykit"', ".SH NAME", "replaykit \\- who is using the bandwidth?",
        ".SH SYNOPSIS", ".B replaykit COMMAND [OPTIONS]",
    ]  # fmt: skip
    for group, names in GROUPS.items():
        lines.append(f".SH {group.upper()}")
        for name, text in names.items():
            lines += [".TP", f".BR replaykit\\-{name} (1)", _roff(text)]
    return "\n".join([*lines, ".SH EXIT STATUS", _roff(_STATUS)]) + "\n"


def _roff(text: str) -> str:
    """Text that means itself."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def manuals() -> dict[str, str]:
    """File names to pages."""
    names = [name for commands in GROUPS.values() for name in commands]
    return {"replaykit.1": overview(), **{f"replaykit-{name}.1": manual(told(name)) for name in names}}


if __name__ == "__main__":
    PAGE.write_text(page())
    MANUAL.mkdir(exist_ok=True)
    for file, text in manuals().items():
        (MANUAL / file).write_text(text)
