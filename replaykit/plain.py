"""Text that others chose (captured, named by users, read from a server), made safe to show; and the ways out.

Owns all writing to standard output and standard error: whatever a person reads goes through `out` or `say`,
a line an argument, and what a program reads through `emit`. Nothing else prints (the lint says so). A name
can hold anything: escape sequences, bidirectional overrides, line ends, bytes that are no UTF-8. It is shown,
never obeyed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from replaykit.errors import UsageError

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(value: object) -> str:
    """The text of `value` on one line: what cannot be printed, moves the cursor or turns the direction is
    written as an escape such as `\\x1b` or `\\u202e`. Printable text of any language stays as it is.
    """
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode and surrogateescape keep it
        code -= 0xDC00
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def csv_cell(value: object) -> str:
    """A name as a cell that no spreadsheet takes for a formula: what begins with = + - @ gets a `'` before
    it.
    """
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


_HIDDEN = re.compile(r"[^\x00-\x7e]")


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that a terminal can show: the same value, what cannot be printed as \\u escapes."""
    return json_visible(json.dumps(value, ensure_ascii=False, indent=indent))


def json_visible(text: str) -> str:
    """JSON text with the same meaning, in which all characters can be printed."""
    return text if text.isascii() and "\x7f" not in text else _HIDDEN.sub(_json_escaped, text)


def _json_escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def out(*lines: object) -> None:
    """Lines for a person, on standard output."""
    emit("".join(f"{visible(line)}\n" for line in lines))


def say(*lines: object) -> None:
    """Lines for a person, on standard error."""
    sys.stderr.write("".join(f"{visible(line)}\n" for line in lines))
    sys.stderr.flush()


def emit(text: str) -> None:
    """Text for a program, on standard output, as it is; names in it were made safe by its format."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise UsageError(
            f"standard output cannot be written: {(error.strerror or str(error)).lower()}"
        ) from None


def discard_output() -> None:
    """Standard output is gone, or full: Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
