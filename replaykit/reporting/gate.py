"""The gate's verdict for people and for CI: a table, JSON, JUnit XML, SARIF, GitHub's annotations,
Markdown.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from replaykit import __version__
from replaykit.attribution.gate import Check, Verdict
from replaykit.plain import json_text, visible
from replaykit.units import show_size

FORMATS = ("table", "json", "junit", "sarif", "github", "markdown")


def render(verdict: Verdict, kind: str, top: int = 10) -> str:
    """The text of a format of FORMATS."""
    makers = {
        "table": _table,
        "json": _json,
        "junit": _junit,
        "sarif": _sarif,
        "github": _github,
        "markdown": _markdown,
    }
    return makers[kind](verdict, top)


def _headline(verdict: Verdict) -> str:
    failed = len(verdict.failures)
    word = "failed" if failed else "passed"
    m = verdict.measured
    return (
        f"bandwidth gate {word}: {failed} of {len(verdict.checks)} checks over their limit; "
        f"{show_size(m.bytes)} of {m.measure} bytes in {round(m.requests):,} exchanges"
    )


def _table(verdict: Verdict, top: int) -> str:
    lines = [_headline(verdict)]
    lines += [f"  FAILED  {visible(check.text)}" for check in verdict.failures]
    ordered = [(visible(name), e) for name, e in verdict.measured.ordered()[:top]]
    width = max((len(name) for name, _ in ordered), default=8)
    lines += ["", f"{'endpoint':<{width}}  {'exchanges':>10}  {'bytes':>9}  {'a request':>9}  {'share':>6}"]
    total = verdict.measured.bytes or 1
    for name, e in ordered:
        lines.append(
            f"{name:<{width}}  {round(e.requests):>10,}  {show_size(e.bytes):>9}  "
            f"{show_size(e.per_request):>9}  {e.bytes / total:>6.1%}"
        )
    return "\n".join(lines) + "\n"


def _plain(check: Check) -> dict[str, Any]:
    return {
        "rule": check.rule,
        "subject": check.subject,
        "value": check.value,
        "limit": check.limit,
        "unit": check.unit,
        "passed": check.passed,
    }


def _json(verdict: Verdict, top: int) -> str:
    m = verdict.measured
    found = {
        "passed": not verdict.failures,
        "measure": m.measure,
        "total_bytes": round(m.bytes),
        "exchanges": round(m.requests),
        "checks": [_plain(check) for check in verdict.checks],
        "endpoints": [
            {
                "endpoint": n,
                "exchanges": round(e.requests),
                "bytes": round(e.bytes),
                "largest_bytes": e.largest,
                "bytes_per_request": e.per_request,
            }
            for n, e in m.ordered()
        ],
    }
    return json_text(found, indent=2) + "\n"


def _junit(verdict: Verdict, top: int) -> str:
    suite = ElementTree.Element(
        "testsuite",
        name="bandwidth gate",
        tests=str(len(verdict.checks)),
        failures=str(len(verdict.failures)),
        errors="0",
    )
    for check in verdict.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.rule, name=visible(check.subject))
        if not check.passed:
            ElementTree.SubElement(case, "failure", message=visible(check.text)).text = visible(check.text)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, "unicode") + "\n"


def _sarif(verdict: Verdict, top: int) -> str:
    rules = sorted({check.rule for check in verdict.checks})
    results = [
        {
            "ruleId": check.rule.replace(" ", "-"),
            "level": "error",
            "message": {"text": check.text},
            "locations": [{"logicalLocations": [{"name": check.subject, "kind": "resource"}]}],
        }
        for check in verdict.failures
    ]
    driver = {
        "name": "replaykit gate",
        "version": __version__,
        "rules": [
            {"id": r.replace(" ", "-"), "shortDescription": {"text": f"bandwidth: {r}"}} for r in rules
        ],
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json_text(log, indent=2) + "\n"


def _github(verdict: Verdict, top: int) -> str:
    """Workflow commands; data is escaped as GitHub wants it."""

    def escape(text: str, more: str = "") -> str:
        text = visible(text)
        for char in "%\r\n" + more:
            text = text.replace(char, f"%{ord(char):02X}")
        return text

    lines = [
        f"::error title={escape(f'bandwidth: {check.rule}', ':,')}::{escape(check.text)}"
        for check in verdict.failures
    ]
    return "\n".join([*lines, f"::notice title=bandwidth gate::{escape(_headline(verdict))}"]) + "\n"


def _markdown(verdict: Verdict, top: int) -> str:
    def code(text: str) -> str:
        """A code span: no link, tag or column begins in it.

        Its fence is longer than any run of backticks within.
        """
        shown = visible(text).replace("|", "\\|")
        fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
        pad = " " if len(fence) > 1 else ""
        return f"{fence}{pad}{shown}{pad}{fence}"

    lines = [f"**{_headline(verdict)}**", ""]
    if verdict.failures:
        lines += [f"- {code(check.text)}" for check in verdict.failures] + [""]
    lines += ["| endpoint | exchanges | bytes | a request | share |", "|---|---:|---:|---:|---:|"]
    total = verdict.measured.bytes or 1
    for name, e in verdict.measured.ordered()[:top]:
        lines.append(
            f"| {code(name)} | {round(e.requests):,} | {show_size(e.bytes)} | {show_size(e.per_request)} "
            f"| {e.bytes / total:.1%} |"
        )
    return "\n".join(lines) + "\n"
