"""The ledger's part of the API: history, totals, reports, and what rules did and hold."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from starlette.concurrency import run_in_threadpool

from replaykit.ledger import calendar
from replaykit.ledger.done import Entry, alerts, effects, log, logged
from replaykit.ledger.history import Sum, Totals, buckets, gaps, history, subjects, totals
from replaykit.ledger.selection import Selection, literally
from replaykit.ledger.store import Ledger
from replaykit.reporting import usage as shown
from replaykit.reporting import usage_page
from replaykit.rules.evaluate import effect_in_words, standing
from replaykit.rules.limits import Rule, Verdict
from replaykit.web.answers import DataAnswer, ListAnswer, Problem
from replaykit.web.paging import MOST, Page

MOST_ROWS = MOST
_LAST = {"minute": 3600, "hour": 86_400, "day": 30 * 86_400, "month": 366 * 86_400}
_SECONDS = {"minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000}
_REPORT = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
    " frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
)
"""A report's own script draws its chart; it is no page of this API's, and may ask it nothing."""
Period = Literal["minute", "hour", "day", "month"]


def chosen(
    vantage: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    client: str | None = None,
) -> Selection:
    return Selection(
        vantage,
        kind,
        () if subject is None else (subject,),
        (),
        {} if client is None else {"client": (client,)},
    )


Chosen = Annotated[Selection, Depends(chosen)]


def between(ledger: Ledger, since: str | None, until: str | None, last_s: int) -> tuple[int, int]:
    """A span of time as people name it; without a begin, the last so many seconds.

    Raises Problem and UsageError.
    """
    end = int(time.time()) + 1 if until is None else calendar.moment(until, ledger.zone)
    begin = max(0, end - last_s) if since is None else calendar.moment(since, ledger.zone)
    if not 0 <= begin < end <= calendar.LATEST:
        raise Problem(400, "the span ends before it begins, or is beyond all time")
    return begin, end


def add_overview(
    api: APIRouter, ledger: Ledger, parts: dict[str, bool], trouble: Callable[[], str] | None = None
) -> None:
    """parts: what this application has beside the ledger.

    trouble: why what is shown may be old; empty where it is not.
    """

    @api.get("/api/overview")
    async def overview(
        since: str | None = None, until: str | None = None, top: Annotated[int, Query(ge=1, le=100)] = 5
    ) -> DataAnswer:
        """Who uses the bandwidth, across vantages: of each kind of subject how many, the sums, and the
        largest. The span is the last day where none is given.
        """
        begin, end = between(ledger, since, until, _LAST["hour"])
        found = await run_in_threadpool(totals, ledger, begin, end)
        kinds: dict[tuple[str, str], dict[str, Any]] = {}
        for row in found.sums:
            at = kinds.setdefault(
                (row.vantage, row.subject_kind),
                {
                    "vantage": row.vantage,
                    "kind": row.subject_kind,
                    "subjects": 0,
                    "rx_bytes": 0,
                    "tx_bytes": 0,
                    "top": [],
                },
            )
            at["subjects"] += 1
            at["rx_bytes"] += row.rx_bytes
            at["tx_bytes"] += row.tx_bytes
            if len(at["top"]) < top:
                at["top"] += shown.records([row], ledger.zone)
        return DataAnswer(
            data={
                "since": calendar.show(found.since, ledger.zone),
                "until": calendar.show(found.until, ledger.zone),
                "parts": parts,
                "time_zone": ledger.time_zone,
                "trouble": trouble() if trouble is not None else "",
                "kinds": [kinds[k] for k in sorted(kinds)],
            }
        )


def add_limits(api: APIRouter, ledger: Ledger, rules: Callable[[], Sequence[Rule]] | None) -> None:
    """rules: as they are now; None: none are known here."""

    @api.get("/api/limits")
    async def limits(vantage: str, kind: str, subject: str) -> ListAnswer:
        """What each rule allows a subject, what it used of it, what remains, and when that begins anew (null:
        it slides).
        """
        now, chosen = int(time.time()), Selection(vantage, kind, (literally(subject),))

        def judged() -> list[dict[str, Any]]:
            found = next(iter(subjects(ledger, chosen)), None)
            if found is None:
                raise Problem(404, f"the ledger knows no {kind} {subject} of {vantage}")
            return [_limit(v, ledger) for v in standing(ledger, rules() if rules else (), found, now)]

        return ListAnswer(data=await run_in_threadpool(judged))


def _limit(verdict: Verdict, ledger: Ledger) -> dict[str, Any]:
    rule = verdict.rule
    return {
        "rule": rule.name,
        "allows": rule.describe(),
        "binary": rule.is_binary,
        "metric": rule.metric,
        "direction": rule.direction,
        "used": verdict.used,
        "allowed": verdict.allowed,
        "remaining": max(0.0, verdict.allowed - verdict.used),
        "share": verdict.used / verdict.allowed if verdict.allowed else None,
        "since": calendar.show(verdict.since, ledger.zone),
        "until": None if verdict.until is None else calendar.show(verdict.until, ledger.zone),
        "dry_run": rule.dry_run,
        "thresholds": [
            {
                "at": t.at,
                "reached": t in verdict.reached,
                "actions": [effect_in_words(a.kind, a.value) for a in t.actions],
            }
            for t in rule.thresholds
        ],
    }


def _idle(ledger: Ledger, selection: Selection, found: Totals, there: Collection[str] | None) -> list[Sum]:
    """Nothing moved, of each subject that moved nothing; of machines that are polled here only those that are
    there yet.
    """
    moved = {(s.vantage, s.subject_kind, s.subject) for s in found.sums}
    return [
        Sum(found.since, found.until, *s.key, s.labels, 0, 0, 0, 0, 0, 0)
        for s in subjects(ledger, selection)
        if s.key not in moved and (there is None or s.vantage != "hypervisor" or s.name in there)
    ]


def _wanted(rows: Sequence[Sum], search: str, labels: Sequence[tuple[str, str]]) -> Sequence[Sum]:
    """Those with this text in their name or a label, and with these labels."""
    word = search.lower()
    return [
        row
        for row in rows
        if all(row.labels.get(name) == value for name, value in labels)
        and (not word or any(word in text.lower() for text in (row.subject, *row.labels.values())))
    ]


def _label(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise Problem(400, f"label: {text[:100]!r}: write NAME=VALUE, such as status=stopped")
    return name, value


def add_history(api: APIRouter, ledger: Ledger, polled: Callable[[], Collection[str]] | None = None) -> None:
    """polled: the machines that the last poll saw; None: nobody polls here."""
    _add_buckets(api, ledger)
    _add_totals(api, ledger, polled)
    _add_report(api, ledger)
    _add_what_rules_did(api, ledger)


def _span(ledger: Ledger, period: str, since: str | None, until: str | None) -> tuple[int, int]:
    begin, end = between(ledger, since, until, _LAST[period])
    if (end - begin) / _SECONDS[period] > MOST_ROWS:
        raise Problem(400, f"more than {MOST_ROWS:,} buckets: ask for a shorter span or a longer period")
    return begin, end


def _add_buckets(api: APIRouter, ledger: Ledger) -> None:
    @api.get("/api/history")
    async def history_of(
        selection: Chosen,
        period: Period = "hour",
        since: str | None = None,
        until: str | None = None,
        by: str = "subject",
        *,
        page: Page,
    ) -> DataAnswer:
        """What each moved in each hour, day or month; every bucket of the span, with how much of it was read;
        and where readings are missing: what was moved then is spread evenly.
        """
        begin, end = _span(ledger, period, since, until)
        now = int(time.time())
        rows = await run_in_threadpool(history, ledger, period, begin, end, selection, by)
        missing = await run_in_threadpool(gaps, ledger, begin, end, selection, now)
        every = await run_in_threadpool(buckets, ledger, period, begin, end, missing, now)
        return DataAnswer(
            data={
                "period": period,
                "time_zone": ledger.time_zone,
                "rows": shown.records(page.of(rows), ledger.zone),
                "buckets": [
                    {
                        **b._asdict(),
                        "time": calendar.show(b.time, ledger.zone),
                        "until": calendar.show(b.until, ledger.zone),
                    }
                    for b in every
                ],
                "gaps": shown.gap_records(missing, ledger.zone),
            }
        )


def _add_totals(api: APIRouter, ledger: Ledger, polled: Callable[[], Collection[str]] | None) -> None:
    @api.get("/api/totals")
    async def totals_of(
        selection: Chosen,
        page: Page,
        since: str | None = None,
        until: str | None = None,
        by: str = "subject",
        search: Annotated[str, Query(max_length=300)] = "",
        label: Annotated[list[str] | None, Query(max_length=20)] = None,
        idle: bool = False,
        tally: Annotated[str | None, Query(max_length=100)] = None,
    ) -> DataAnswer:
        """What each moved in a span of time, the largest first; the span is the last day where none is given.

        `search`, `label` (`NAME=VALUE`): only those; `whole` is of all. `idle`: with those that moved
        nothing. `tally`: counts of each value that this label has.
        """
        begin, end = _span(ledger, "hour", since, until)
        labels = [_label(text) for text in label or ()]
        there = polled() if polled is not None else None

        def asked() -> dict[str, Any]:
            found = totals(ledger, begin, end, selection, by)
            sums = [
                *found.sums,
                *(_idle(ledger, selection, found, there) if idle and by == "subject" else ()),
            ]
            counts: dict[str, int] = {}
            for row in sums:
                if tally in row.labels:
                    counts[row.labels[tally]] = counts.get(row.labels[tally], 0) + 1
            rx, tx = sum(s.rx_bytes for s in sums), sum(s.tx_bytes for s in sums)
            return {
                "since": calendar.show(found.since, ledger.zone),
                "until": calendar.show(found.until, ledger.zone),
                "rows": shown.records(page.of(_wanted(sums, search, labels)), ledger.zone),
                "whole": {"subjects": len(sums), "rx_bytes": rx, "tx_bytes": tx, "total_bytes": rx + tx},
                **({} if tally is None else {"tally": dict(sorted(counts.items()))}),
            }

        return DataAnswer(data=await run_in_threadpool(asked))


def _add_report(api: APIRouter, ledger: Ledger) -> None:
    @api.get("/api/report", response_class=Response)
    async def report(
        selection: Chosen,
        format: Literal["csv", "json", "html", "png"] = "html",
        period: Period = "day",
        since: str | None = None,
        until: str | None = None,
        by: str = "subject",
        dark: bool = False,
    ) -> Response:
        """The same as a file."""
        begin, end = _span(ledger, period, since, until)
        rows = await run_in_threadpool(history, ledger, period, begin, end, selection, by)
        missing = await run_in_threadpool(gaps, ledger, begin, end, selection, int(time.time()))
        title = (
            f"Bandwidth by {by.removeprefix('label:')}, {calendar.show(begin, ledger.zone)[:16]} to"
            f" {calendar.show(end, ledger.zone)[:16]}"
        )
        zone, kind = (
            ledger.zone,
            {"csv": "text/csv", "json": "application/json", "html": "text/html", "png": "image/png"}[format],
        )
        body: str | bytes
        if format == "csv":
            body = shown.as_csv(rows, zone)
        elif format == "json":
            body = shown.as_json(
                rows, zone, {"period": period, "by": by, "time_zone": ledger.time_zone}, missing
            )
        else:
            draw: Callable[..., str | bytes] = usage_page.as_html if format == "html" else shown.as_png
            body = await run_in_threadpool(draw, rows, zone, period, "both", title, dark, missing)
        headers = (
            {"Content-Security-Policy": _REPORT}
            if format == "html"
            else {"Content-Disposition": f'attachment; filename="usage.{format}"'}
        )
        return Response(body, media_type=kind, headers=headers)


def _add_what_rules_did(api: APIRouter, ledger: Ledger) -> None:
    @api.get("/api/rules/log")
    async def rules_log(
        page: Page,
        most: Annotated[int, Query(ge=1, le=10_000)] = 100,
        vantage: str | None = None,
        kind: str | None = None,
        subject: str | None = None,
    ) -> ListAnswer:
        """What rules did, the newest last; to one subject, where it is named.

        With `limit`, `offset` leaves out the newest.
        """

        def asked() -> list[Entry]:
            page.counted(logged(ledger, subject=subject, vantage=vantage, kind=kind))
            newest = most if page.limit is None else page.limit
            return log(ledger, most=newest, subject=subject, vantage=vantage, kind=kind, offset=page.offset)

        entries = await run_in_threadpool(asked)
        return ListAnswer(data=[{n: getattr(e, n) for n in e.__slots__} for e in entries])

    @api.get("/api/alerts")
    async def exceeded(page: Page) -> ListAnswer:
        """Which rules are exceeded now, by whom, since when (seconds since the epoch), and how far."""
        return ListAnswer(data=list(page.of(await run_in_threadpool(alerts, ledger))))

    @api.get("/api/rules/effects")
    async def rules_effects(
        page: Page, vantage: str | None = None, kind: str | None = None, subject: str | None = None
    ) -> ListAnswer:
        """What rules hold now; of one subject, where it is named."""
        wanted = {
            k: v for k, v in (("vantage", vantage), ("kind", kind), ("subject", subject)) if v is not None
        }
        held = await run_in_threadpool(effects, ledger)
        held = [e for e in held if all(e[k] == v for k, v in wanted.items())]
        return ListAnswer(data=json.loads(json.dumps(page.of(held))))
