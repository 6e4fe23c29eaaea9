"""Files and functions that fit into one's head; what has to be longer says why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_LINES, MOST_OF_A_FUNCTION = 400, 60
REASON = "# long: "


def too_long(text: str) -> Iterator[str]:
    """Functions beyond the measure that give no reason, with their lines."""
    lines = text.splitlines()
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (function.end_lineno or 0) - function.lineno + 1
            above = min([function.lineno, *(d.lineno for d in function.decorator_list)]) - 2
            first = [*range(function.lineno, function.body[0].lineno)]  # between the head and the body
            given = any(reason(lines[at]) for at in (above, *first) if at >= 0)
            if count > MOST_OF_A_FUNCTION and not given:
                yield f"{function.name}: {count}"


def reason(line: str) -> bool:
    return bool(line.strip().startswith(REASON) and line.partition(REASON)[2].strip())


def test_no_file_is_too_long() -> None:
    paths = (ROOT / "replaykit").rglob("*.py")
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    assert {p: n for p, n in lengths.items() if n > MOST_LINES} == {}


def test_no_function_is_too_long_without_a_reason() -> None:
    found = {str(p.relative_to(ROOT)): [*too_long(p.read_text())] for p in (ROOT / "replaykit").rglob("*.py")}
    assert {name: functions for name, functions in found.items() if functions} == {}


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("def f():", ["f: 62"]),
        ("# about f\ndef f():", ["f: 62"]),
        ("# long:\ndef f():", ["f: 62"]),
        ("# long: a table\n\ndef f():", ["f: 62"]),
        ("# long: a table\ndef f():", []),
        ("# long: a table\n@one\n@two\nasync def f():", []),
        ("def f():\n    # long: a table", []),
    ],
)
def test_a_reason_is_a_comment_above_the_function_or_first_in_it(head: str, found: list[str]) -> None:
    assert [*too_long(f"{head}\n" + "    x = 1\n" * 61)] == found
