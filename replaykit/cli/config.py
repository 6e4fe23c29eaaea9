"""`replaykit config`: whether a file is right, and the JSON Schema by which an editor completes it."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from replaykit.config.files import FILES
from replaykit.config.kinds import Text
from replaykit.config.options import Option, Options
from replaykit.config.schema import json_schema
from replaykit.errors import UsageError
from replaykit.plain import emit, out

EXAMPLES = (
    "replaykit config schema rules > rules.schema.json",
    "replaykit config check forward forward.yaml",
)


class ConfigOptions(Options):
    what: Annotated[
        Literal["schema", "check"],
        Option(
            "schema: prints the JSON Schema of a kind of file; check: whether a file is right",
            "WHAT",
            argument=True,
        ),
    ]
    kind: Annotated[
        Text,
        Option(
            "; ".join(f"{name}: {kind.about}" for name, kind in FILES.items()),
            "KIND",
            argument=True,
            complete="kinds",
        ),
    ]
    file: Annotated[Text | None, Option("for check: the file (YAML or JSON)", "FILE", argument=True)] = None


def run(args: ConfigOptions) -> int:
    kind = FILES.get(args.kind)
    if kind is None:
        raise UsageError(f"config: there is no kind of file {args.kind!r}; there are {', '.join(FILES)}")
    if args.what == "schema":
        if args.file is not None:
            raise UsageError("config schema: takes a kind of file, and no file")
        emit(json.dumps(json_schema(kind.load_model()), indent=2, ensure_ascii=False) + "\n")
        return 0
    if args.file is None:
        raise UsageError(f"config check {args.kind}: name the file")
    kind.check(args.file)
    out(f"{args.file}: good")
    return 0
