"""`replaykit config`: whether a file is right, and the JSON Schema by which an editor completes it."""

from __future__ import annotations

import json

from replaykit.cli.options.shipping import ConfigOptions
from replaykit.config.files import FILES
from replaykit.config.schema import json_schema
from replaykit.errors import UsageError
from replaykit.plain import emit, out


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
