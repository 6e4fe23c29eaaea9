"""`replaykit verify`: the witness's second opinion on capture files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from replaykit.cli import common
from replaykit.cli.options.looking import VerifyOptions
from replaykit.engine.options import Options
from replaykit.extras import needs
from replaykit.plain import emit, json_text, out, visible

_SHOWN = 20


def run(args: VerifyOptions) -> int:
    try:
        from replaykit.witness import tshark
        from replaykit.witness.comparison import COLUMNS, compare
    except ImportError as error:
        raise needs(f"the witness needs {error.name}", "verify") from None
    status, documents = 0, []
    for name in args.files:
        rows = list(_rows(args, name, COLUMNS))
        found, third = compare(name, rows), None
        status = max(status, int(bool(found.differences)))
        if args.third is not None:
            third = tshark.compare(name, rows, found.whole)
            status = max(status, int(bool(third.differences)))
        documents.append(
            {
                "file": name,
                "agreed": found.agreed,
                "different": found.different,
                "undecided": dict(found.undecided.most_common()),
                "differences": [asdict(d) for d in found.differences],
                **({} if third is None else {"tshark": _document(third)}),
            }
        )
        if args.format == "text":
            _print(name, found)
            if third is not None:
                _print_third(third)
    if args.format == "json":
        emit(json_text(documents, indent=2) + "\n")
    return status


def _rows(args: VerifyOptions, name: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    reader = common.reader(args, Options())
    for piece in reader.read([name]):
        if isinstance(piece, pa.RecordBatch):
            yield from piece.select(list(columns)).to_pylist()


def _document(third: Any) -> dict[str, Any]:
    return {
        "agreed": third.agreed,
        "undecided": dict(third.undecided.most_common()),
        "differences": [
            {"client": client, "server": server, "engine": dict(mine), "tshark": dict(theirs)}
            for client, server, mine, theirs in third.differences
        ],
    }


def _print_third(third: Any) -> None:
    out(f"  tshark: {third.agreed:,} requests agree, {len(third.differences):,} conversations do not")
    for why, count in third.undecided.most_common():
        out(f"  undecided: {count:,} conversations: {why}")
    for client, server, mine, theirs in third.differences[:_SHOWN]:
        out(f"  {client[0]}:{client[1]} to {server[0]}:{server[1]}")
        for who, seen in (("engine", mine), ("tshark", theirs)):
            for what, count in seen.most_common(_SHOWN):
                out(f"    only {who}: {count:,} x {visible(what)}")


def _print(name: str, found: Any) -> None:
    out(f"{name}: {found.agreed:,} exchanges agree, {found.different:,} do not")
    for why, count in found.undecided.most_common():
        out(f"  undecided: {count:,} conversations: {why}")
    for d in found.differences[:_SHOWN]:
        out(f"  {d.client[0]}:{d.client[1]} to {d.server[0]}:{d.server[1]}")
        for who, exchanges in (("engine", d.engine), ("witness", d.witness)):
            for e in exchanges:
                packets = f", packets {e.packets[0]} and {e.packets[1]}" if e.packets != (0, 0) else ""
                out(
                    f"    {who}: {visible(e.method)} {visible(e.target)} {e.status}: request"
                    f" {e.request_header_bytes:,} + {e.request_body_bytes:,}, response"
                    f" {e.response_header_bytes:,} + {e.response_body_bytes:,} bytes{packets}"
                )
    if len(found.differences) > _SHOWN:
        out(f"  and {len(found.differences) - _SHOWN:,} conversations more")
