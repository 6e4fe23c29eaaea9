"""`replaykit config`: whether a file is right, and the JSON Schema by which an editor completes it."""

from __future__ import annotations

import argparse

from replaykit.config.files import FILES
from replaykit.errors import UsageError
from replaykit.plain import emit, json_text, out

EXAMPLES = (
    "replaykit config schema rules > rules.schema.json",
    "replaykit config check forward forward.yaml",
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("schema", "check"),
        help="schema: prints the JSON Schema of a kind of file; check: whether a file is right",
    )  # fmt: skip
    parser.add_argument(
        "kind", choices=tuple(FILES), help="; ".join(f"{name}: {kind.about}" for name, kind in FILES.items())
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="for check: the file (YAML or JSON)")


def run(args: argparse.Namespace) -> int:
    kind = FILES[args.kind]
    if args.what == "schema":
        if args.file is not None:
            raise UsageError("config schema: takes a kind of file, and no file")
        from replaykit.config.schema import json_schema  # pydantic takes a tenth of a second

        emit(json_text(json_schema(kind.load_model()), 2) + "\n")
        return 0
    if args.file is None:
        raise UsageError(f"config check {args.kind}: name the file")
    kind.check(args.file)
    out(f"{args.file}: good")
    return 0
