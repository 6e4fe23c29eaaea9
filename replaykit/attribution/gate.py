"""The bandwidth gate: limits, a baseline and budgets, and what breaks them.

Sizes are TCP payload of both directions, headers included. Growth is judged per request, so that a
longer test run is not mistaken for a heavier service, and in all where asked.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from replaykit.attribution.measured import Endpoint, Measured
from replaykit.config.reading import read
from replaykit.errors import UsageError
from replaykit.units import parse_size, show_size


@dataclass(frozen=True)
class Limits:
    """Bytes; share and increases as parts of 1. endpoints, budgets: pattern and bytes.

    total: of everything. endpoints: of one endpoint in all. request: of any one exchange. share: of
    one endpoint in the total. increase: of bytes per request against the baseline, per endpoint.
    total_increase: of everything. budgets: bytes per request.
    """

    total: int | None = None
    endpoints: Sequence[tuple[str, int]] = ()
    request: int | None = None
    share: float | None = None
    increase: float | None = None
    total_increase: float | None = None
    budgets: Sequence[tuple[str, int]] = ()

    @classmethod
    def of(
        cls,
        *,
        threshold: str | None = None,
        per_endpoint: Sequence[str] = (),
        per_request: str | None = None,
        max_share: str | None = None,
        max_increase: str | None = None,
        max_total_increase: str | None = None,
        budget: Sequence[str] = (),
        compared: bool = False,
    ) -> Limits:
        """As people write them: sizes such as `500MB`, shares such as `10%`, `PATTERN=SIZE`, files of
        budgets.

        compared: there is a baseline. Raises UsageError.
        """
        endpoints = []
        for text in per_endpoint:
            pattern, equals, size = text.rpartition("=")
            endpoints.append((pattern if equals else "*", parse_size(size)))
        limits = cls(
            total=None if threshold is None else parse_size(threshold),
            endpoints=endpoints,
            request=None if per_request is None else parse_size(per_request),
            share=percent("--max-share", max_share, 100),
            increase=percent("--max-increase", max_increase),
            total_increase=percent("--max-total-increase", max_total_increase),
            budgets=[b for path in budget for b in read_budgets(path)],
        )
        grows = limits.increase is not None or limits.total_increase is not None
        if grows and not compared:
            raise UsageError("--max-increase needs something to compare with: --baseline FILE")
        if compared and not grows:
            raise UsageError("--baseline: say how much more is allowed: --max-increase 10%")
        if not limits:
            raise UsageError(
                "no limit given: e.g. --threshold 500MB, --budget FILE, --baseline FILE --max-increase 10%"
            )
        return limits

    def __bool__(self) -> bool:
        return any(
            v is not None for v in (self.total, self.request, self.share, self.increase, self.total_increase)
        ) or bool(self.endpoints or self.budgets)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. value and limit in bytes, or parts of 1 (`unit` says which)."""

    rule: str
    subject: str
    value: float
    limit: float
    unit: str = "bytes"

    @property
    def passed(self) -> bool:
        return self.value <= self.limit

    @property
    def text(self) -> str:
        show = show_size if self.unit == "bytes" else (lambda part: f"{part:.1%}")
        than = "within" if self.passed else "over"
        return f"{self.subject}: {self.rule} {show(self.value)}, {than} the limit of {show(self.limit)}"


@dataclass
class Verdict:
    """checks: all that was looked at. unused: patterns that met no endpoint."""

    measured: Measured
    checks: list[Check] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        return not self.failures

    def require(self) -> None:
        """A gate that looked at nothing has not passed. Raises UsageError."""
        for pattern in self.unused:
            raise UsageError(f"no endpoint matches {pattern!r}{nearest(pattern, self.measured.endpoints)}")
        if not self.checks:
            raise UsageError("nothing could be compared: no endpoint of the baseline was measured")


def matches(pattern: str, endpoint: str) -> bool:
    """The pattern itself, or a glob; `{` and `}` stand for themselves."""
    return pattern == endpoint or fnmatch.fnmatchcase(endpoint, pattern.replace("[", "[[]"))


def judge(measured: Measured, limits: Limits, baseline: Measured | None = None) -> Verdict:
    """Holds what was measured against the limits."""
    out = Verdict(measured)
    checks, total = out.checks, measured.bytes
    if limits.total is not None:
        checks.append(Check("total", "(all)", total, limits.total))
    ordered = measured.ordered()
    for name, limit in limits.endpoints:
        _each(out, "endpoint total", name, limit, ordered, lambda e: e.bytes)
    if limits.request is not None:
        checks += [Check("largest exchange", n, e.largest, limits.request) for n, e in ordered]
    if limits.share is not None:
        checks += [Check("share", n, e.bytes / (total or 1), limits.share, "part") for n, e in ordered]
    for name, limit in limits.budgets:
        _each(out, "bytes per request", name, limit, ordered, lambda e: e.per_request)
    if baseline is not None:
        if limits.total_increase is not None:
            checks.append(_growth("growth in all", "(all)", total, baseline.bytes, limits.total_increase))
        for name, e in ordered if limits.increase is not None else ():
            before = baseline.endpoints.get(name)
            if before is not None and limits.increase is not None:
                checks.append(
                    _growth("growth per request", name, e.per_request, before.per_request, limits.increase)
                )
    return out


def _growth(rule: str, subject: str, now: float, before: float, limit: float) -> Check:
    grown = now / before - 1 if before else (1.0 if now else 0.0)
    return Check(rule, subject, round(grown, 12), limit, "part")


def _each(
    out: Verdict, rule: str, pattern: str, limit: int, ordered: list[tuple[str, Endpoint]], value: object
) -> None:
    found = [(name, e) for name, e in ordered if matches(pattern, name)]
    if not found:
        out.unused.append(pattern)
    out.checks += [Check(rule, name, value(e), limit) for name, e in found]  # type: ignore[operator]


def read_budgets(path: str) -> list[tuple[str, int]]:
    """YAML: endpoint pattern to bytes per request. Raises UsageError."""
    from replaykit.attribution.budget_file import BudgetsFile  # pydantic takes a tenth of a second

    return read(path, BudgetsFile).budgets


def percent(flag: str, text: str | None, most: float = float("inf")) -> float | None:
    """`10%` as 0.1, at most `most` per cent. Raises UsageError."""
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{flag} {text}: write a percentage such as 10%")
    if value > most / 100:
        raise UsageError(f"{flag} {text}: nothing can be over {most:g}%")
    return value


def nearest(name: str, endpoints: Iterable[str]) -> str:
    """`; did you mean …?`, or how many there are."""
    known = sorted(endpoints)
    close = difflib.get_close_matches(name, known, 1, 0.4)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; there are {', '.join(map(repr, known[:3]))}{', …' if len(known) > 3 else ''}"
    )
