"""Writes docs/cli.md from the commands themselves: python -m ci.cli_page. A test says when it is old."""

from __future__ import annotations

import os
from pathlib import Path

from replaykit.cli.main import GROUPS, build

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def page() -> str:
    """All commands with their help, by group."""
    os.environ["COLUMNS"] = "110"
    lines = [
        "# Commands", "",
        "Made from the program by `make docs/cli.md`: what `replaykit COMMAND --help` prints. Exit status: 0 done, 1 a limit or",
        "comparison failed, 2 wrong use or input, with one line on standard error.",
    ]  # fmt: skip
    for group, commands in GROUPS.items():
        lines += ["", f"## {group[0].upper()}{group[1:]}"]
        for name in commands:
            told = build(name)._subparsers._group_actions[0].choices[name]  # type: ignore[union-attr, index, call-overload]
            lines += ["", f"### {name}", "", "```text", *told.format_help().rstrip().splitlines(), "```"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
