"""Columns to JSON text, a line a row, without a Python object per row.

Owns how a tree of names over Arrow columns becomes objects: absent values are left out, and objects
that would be empty too. Cost: a few string joins per column, some 20 ns a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.plain import json_visible

Tree = Mapping[str, Any]
"""Names to columns (arrays of one length), to trees, or to constants."""

_TEXT = pa.string()


def encode(tree: Tree) -> pa.Array:
    """An array of JSON objects. Raises ValueError where the tree has no column."""
    found = _object("", tree)
    if isinstance(found, str):
        raise ValueError("a tree without columns")
    return found


def _object(head: str, tree: Tree) -> pa.Array | str:
    """`head{...}`, empty where all members are absent; text where all of them are constants.

    Each member has a comma before it; the first in the row is one that every row has, without it.
    """
    parts = [_member(name, value) for name, value in tree.items()]
    parts = [part for part in parts if not (isinstance(part, str) and not part)]
    if all(isinstance(part, str) for part in parts):
        text = "".join(parts)
        return f"{head}{{{text[1:]}}}" if text else ""
    first = next((i for i, part in enumerate(parts) if isinstance(part, str) or part.null_count == 0), None)
    if first is None:
        members = _joined(parts)
        whole = pc.binary_join_element_wise(f"{head}{{", pc.utf8_slice_codeunits(members, 1), "}", "")
        return pc.if_else(pc.equal(members, ""), None, whole)
    opening = parts.pop(first)
    if isinstance(opening, str):
        return _joined([f"{head}{{{opening[1:]}", *parts, "}"])
    return _joined([f"{head}{{", pc.utf8_slice_codeunits(opening, 1), *parts, "}"])


def _joined(parts: list[pa.Array | str]) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")


def _member(name: str, value: Any) -> pa.Array | str:
    """`,"name":value`, null where the value is."""
    head = f",{json.dumps(name)}:"
    if isinstance(value, Mapping):
        return _object(head, value)
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return _leaf(head, value)
    return head + json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _leaf(head: str, column: pa.Array) -> pa.Array:
    """`,"name":value`, null where the value is."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _strings(head, column.dictionary).take(column.indices)
    if pa.types.is_string(kind):
        encoded = column.dictionary_encode()
        return _strings(head, encoded.dictionary).take(encoded.indices)
    if pa.types.is_timestamp(kind):
        # In UTC without saying so: looking the zone up would cost more than all the rest.
        naive = column.cast(pa.int64()).cast(pa.timestamp("ns")).cast(_TEXT)
        stamp = pc.replace_substring(naive, " ", "T", max_replacements=1)
        return pc.binary_join_element_wise(f'{head}"', stamp, 'Z"', "")
    return pc.binary_join_element_wise(head, column.cast(_TEXT), "")


def _strings(head: str, values: pa.Array) -> pa.Array:
    encode_one = json.JSONEncoder(ensure_ascii=False).encode
    return pa.array(
        [None if v is None else head + json_visible(encode_one(v)) for v in values.to_pylist()], _TEXT
    )
