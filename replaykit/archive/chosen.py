"""The filters of a command line over rows of Parquet: what the engine does to packets, done to columns.

Owns what a row can answer: method, target, port, path. What it cannot, because a file of exchanges holds no
headers and no packets, the command refuses (`cli.common.refuse_unfit`). Cost: one look at each different text
of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.core import core
from replaykit.engine.filter import Redaction
from replaykit.engine.options import Options
from replaykit.errors import UsageError

_TEMPLATED = ("http/1.0", "http/1.1", "h2", "websocket")
"""Protocols whose endpoints come from paths."""


class Chosen:
    """Rows as the options want them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._redaction = Redaction(
            frozenset(), frozenset(n.lower().encode() for n in options.redact_parameters)
        )

    @property
    def reads(self) -> set[str]:
        """The columns that are looked at."""
        o = self._options
        wanted = {
            "method": o.allow_methods or o.deny_methods,
            "target": o.allow_urls or o.deny_urls or o.redact_parameters,
            "server_port": o.ports,
            "path": o.endpoints,
            "protocol": o.endpoints,
            "endpoint": o.endpoints,
        }
        return {name for name, given in wanted.items() if given}

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises UsageError for a pattern that cannot be read."""
        o, masks = self._options, []
        if o.ports:
            masks.append(pc.is_in(batch.column("server_port"), pa.array(o.ports, pa.uint16())))
        for name, allowed, denied in (
            ("method", o.allow_methods, o.deny_methods),
            ("target", o.allow_urls, o.deny_urls),
        ):
            if allowed:
                masks.append(_matches(batch.column(name), allowed))
            if denied:
                masks.append(pc.invert(_matches(batch.column(name), denied)))
        if masks:
            batch = batch.filter(reduce(pc.and_, masks))
        if o.redact_parameters:
            hide = self._redaction.target
            batch = _replaced(
                batch, "target", _mapped(batch.column("target"), lambda t: hide(t.encode()).decode())
            )
        if o.endpoints:
            batch = self._named(batch)
        return batch

    def _named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        paths = batch.column("path")
        if not pa.types.is_dictionary(paths.type):
            paths = paths.dictionary_encode()
        known = [v or "" for v in paths.dictionary.to_pylist()]
        names = core.endpoints(list(self._options.endpoints), known)
        fresh = pa.array(names, pa.string()).take(paths.indices)
        ours = pc.is_in(batch.column("protocol").cast(pa.string()), pa.array(_TEMPLATED))
        named = pc.if_else(
            pc.and_(ours, pc.is_valid(fresh)), fresh, batch.column("endpoint").cast(pa.string())
        )
        return _replaced(batch, "endpoint", named)


def _matches(column: pa.Array, patterns: tuple[str, ...]) -> pa.Array:
    """Rows whose text one of the patterns finds; a row without text has none."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    values = column.dictionary.cast(pa.string())
    found: Any = pa.array([False] * len(values), pa.bool_())
    for pattern in patterns:
        try:
            found = pc.or_(found, pc.fill_null(pc.match_substring_regex(values, pattern), False))
        except pa.ArrowInvalid as error:
            raise UsageError(f"a filter's regular expression cannot be read: {pattern!r}: {error}") from None
    return pc.fill_null(found.take(column.indices), False)


def _mapped(column: pa.Array, change: Callable[[str], str]) -> pa.Array:
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    texts = [None if v is None else change(v) for v in column.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(column.indices)


def _replaced(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    at = batch.schema.get_field_index(name)
    field = batch.schema.field(at)
    return batch.set_column(at, field, column.dictionary_encode().cast(field.type))
