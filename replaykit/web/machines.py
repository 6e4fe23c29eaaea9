"""The machines' part of the API, in pve-traffic-monitor's shapes: machines, their statistics and history, the
action log and the rules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Annotated, Any, Literal, Protocol

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from replaykit.ledger import calendar, schema
from replaykit.ledger.done import Entry, log, logged
from replaykit.ledger.history import Sum, history, subjects, totals
from replaykit.ledger.selection import Selection, Subject
from replaykit.ledger.store import Ledger
from replaykit.rules.limits import Rule
from replaykit.vantages.hypervisor.machine import Machine
from replaykit.web.answers import DataAnswer, ListAnswer, Problem
from replaykit.web.paging import Page

Direction = Literal["both", "rx", "tx", "upload", "download"]
_WAYS = {"upload": "tx", "download": "rx"}
_LAST = {"minute": 3600, "hour": 86_400, "day": 30 * 86_400, "month": 366 * 86_400}
_SHOWN = {"minute": "%Y-%m-%d %H:%M", "hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}
_GIB = 1 << 30
_GRACE_S = 5


class StatsAnswer(BaseModel):
    """Sums of a period; total_bytes is of the direction."""

    success: bool = True
    message: str = "ok"
    period: str
    direction: str
    data: list[dict[str, Any]]


class Machines(Protocol):
    """now: what the last poll saw, by subject. rules, given: as they are now, and as the configuration has
    them.

    name: of the hypervisor, which is asked every every_s seconds; answered: when it last answered; trouble:
    why it did not since.
    """

    @property
    def name(self) -> str: ...

    @property
    def every_s(self) -> float: ...

    @property
    def answered(self) -> int | None: ...

    @property
    def trouble(self) -> str: ...

    @property
    def retention_days(self) -> int: ...

    @property
    def now(self) -> Mapping[str, Machine]: ...

    @property
    def rules(self) -> Sequence[Rule]: ...

    @property
    def given(self) -> Sequence[Mapping[str, Any]]: ...


def silence(polled: Machines) -> str:
    """What is to be said where the hypervisor missed a poll; empty while it answers."""
    late = polled.answered is None or time.time() - polled.answered > polled.every_s + _GRACE_S
    if not polled.trouble and not late:
        return ""
    since = (
        ""
        if polled.answered is None
        else f" since {datetime.fromtimestamp(polled.answered).astimezone().isoformat()}"
    )
    why = f" ({polled.trouble})" if polled.trouble else ""
    return f"{polled.name} does not answer{since}{why}; what is shown is from then"


class _Seen:
    """What is known of machines.

    polled: None: nobody polls here, and the ledger's labels say what was seen last.
    """

    def __init__(self, ledger: Ledger, polled: Machines | None) -> None:
        self.ledger, self.polled = ledger, polled

    def known(self) -> dict[str, Subject]:
        return {s.name: s for s in subjects(self.ledger, Selection("hypervisor", "machine"))}

    def shown(self, subject: Subject) -> dict[str, Any]:
        machine = None if self.polled is None else self.polled.now.get(subject.name)
        rules = () if self.polled is None else self.polled.rules
        labels = subject.labels
        tags = [t for t in labels.get("tags", "").split(";") if t]
        counters = list(machine.counters.values()) if machine is not None else []
        return {
            "subject": subject.name,
            "vmid": _number(labels.get("vmid", subject.name)),
            "name": labels.get("name", ""),
            "status": machine.status if machine is not None else labels.get("status", "unknown"),
            "tags": tags,
            "matched_rules": [r.name for r in rules if r.enabled and r.selection.matches(subject)],
            "netrx": sum(c[0] for c in counters),
            "nettx": sum(c[1] for c in counters),
            "node": labels.get("node", ""),
            "type": labels.get("type", ""),
            "template": machine is not None and machine.template,
            "creation_time": (
                _iso(int(labels["created"]), self.ledger.zone)
                if labels.get("created", "").isdigit()
                else None
            ),
        }

    def find(self, vmid: str) -> Subject:
        there = self.known()
        named = [s for s in there.values() if s.labels.get("vmid", s.name) == vmid]
        current = [s for s in named if self.polled is None or s.name in self.polled.now] or named
        if not current:
            raise Problem(404, f"there is no machine {vmid}")
        return max(current, key=lambda s: s.labels.get("created", ""))

    def system(self) -> dict[str, Any]:
        t, s = schema.minute, schema.subject
        query = sa.select(sa.func.count()).select_from(t.join(s, s.c.id == t.c.subject_id))
        with self.ledger.database.reading() as connection:
            count = connection.execute(query.where(s.c.vantage == "hypervisor")).scalar_one()
        return {
            "total_records": count,
            "storage_type": (
                "file" if self.ledger.database.shown.startswith("files:") else self.ledger.database.kind
            ),
            "monitor_interval": None if self.polled is None else self.polled.every_s,
            "data_retention": 0 if self.polled is None else self.polled.retention_days,
            "cache_total": 0,
            "cache_expired": 0,
            "hypervisor": None if self.polled is None else self.polled.name,
            "answered": (
                None
                if self.polled is None or self.polled.answered is None
                else _iso(self.polled.answered, self.ledger.zone)
            ),
            "trouble": "" if self.polled is None else silence(self.polled),
        }

    def sums(
        self, period: str, names: tuple[str, ...] = (), since: int | None = None, until: int | None = None
    ) -> dict[str, Sum]:
        begin = _period(period, self.ledger.zone)[0] if since is None else since
        chosen = Selection("hypervisor", "machine", names)
        return {
            s.subject: s
            for s in totals(self.ledger, begin, int(time.time()) + 1 if until is None else until, chosen).sums
        }


def add_machines(api: APIRouter, ledger: Ledger, polled: Machines | None = None) -> None:
    """polled: None: nobody polls here, and the ledger's labels say what was seen last."""
    seen = _Seen(ledger, polled)
    _add_machines(api, seen)
    _add_statistics(api, seen)
    _add_history(api, seen)
    _add_log_and_rules(api, seen)


def _add_machines(api: APIRouter, seen: _Seen) -> None:
    @api.get("/api/vms")
    async def machines(page: Page) -> ListAnswer:
        """All machines; netrx and nettx since their start."""
        there = await run_in_threadpool(seen.known)
        wanted = [s for n, s in sorted(there.items()) if seen.polled is None or n in seen.polled.now]
        message = (silence(seen.polled) if seen.polled is not None else "") or "ok"
        rows = [seen.shown(s) for s in page.of(sorted(wanted, key=lambda s: _order(s.name)))]
        return ListAnswer(message=message, data=rows)

    @api.get("/api/system/stats")
    async def system_stats(request: Request) -> DataAnswer:
        """How the monitor itself is: records, storage, how quickly this API answers, and whether the
        hypervisor does.
        """
        found = await run_in_threadpool(seen.system)
        return DataAnswer(data={**found, "api_performance": request.app.state.timing.shown()})

    @api.get("/api/vm/{vmid}")
    async def machine(vmid: str) -> DataAnswer:
        """One machine, and what it moved in this hour, day and month."""
        subject = await run_in_threadpool(seen.find, vmid)
        stats = {}
        for period in ("hour", "day", "month"):
            found = await run_in_threadpool(seen.sums, period, (subject.name,))
            row = found.get(subject.name)
            since, until = _period(period, seen.ledger.zone)
            rx, tx = (row.rx_bytes, row.tx_bytes) if row is not None else (0, 0)
            stats[period] = {
                "total_bytes": rx + tx, "rx_bytes": rx, "tx_bytes": tx,
                "start_time": _iso(since, seen.ledger.zone), "end_time": _iso(until, seen.ledger.zone),
            }  # fmt: skip
        return DataAnswer(data={"vm": seen.shown(subject), "stats": stats})


def _add_statistics(api: APIRouter, seen: _Seen) -> None:
    @api.get("/api/stats")
    async def stats(
        page: Page,
        period: Literal["minute", "hour", "day", "month"] = "day",
        direction: Direction = "both",
        start: str | None = None,
        end: str | None = None,
    ) -> StatsAnswer:
        """What each machine moved in this hour, day or month, or from `start` to `end`, the largest first."""
        if (start is None) != (end is None):
            raise Problem(400, "give both start and end, or neither")
        since, until = _period(period, seen.ledger.zone)
        if start is not None and end is not None:
            since, until = calendar.moment(start, seen.ledger.zone), calendar.moment(end, seen.ledger.zone)
            if until <= since:
                raise Problem(400, "the span ends before it begins")
        found = await run_in_threadpool(seen.sums, period, (), since, until)
        there = await run_in_threadpool(seen.known)
        way = _WAYS.get(direction, direction)
        rows: list[dict[str, Any]] = []
        for name, row in found.items():
            total = row.bytes if way == "both" else row.rx_bytes if way == "rx" else row.tx_bytes
            labels = there[name].labels if name in there else {}
            rows.append(
                {
                    "vmid": _number(labels.get("vmid", name)),
                    "name": labels.get("name", ""),
                    "period": period if start is None else "custom",
                    "direction": direction,
                    "start_time": _iso(since, seen.ledger.zone),
                    "end_time": _iso(until, seen.ledger.zone),
                    "total_bytes": total,
                    "rx_bytes": row.rx_bytes,
                    "tx_bytes": row.tx_bytes,
                    "total_gb": round(total / _GIB, 6),
                }
            )
        rows.sort(key=lambda r: -r["total_bytes"])
        return StatsAnswer(
            period=period if start is None else "custom", direction=direction, data=list(page.of(rows))
        )


def _add_history(api: APIRouter, seen: _Seen) -> None:
    @api.get("/api/history/{vmid}")
    async def past(
        vmid: str,
        page: Page,
        period: Literal["minute", "hour", "day", "month"] = "day",
        start: str | None = None,
        end: str | None = None,
    ) -> ListAnswer:
        """A machine by minute of the last hour, hour of the last day, day of 30, month of twelve, or from
        `start` to `end`.
        """
        subject = await run_in_threadpool(seen.find, vmid)
        until = int(time.time()) + 1 if end is None else calendar.moment(end, seen.ledger.zone)
        since = max(0, until - _LAST[period]) if start is None else calendar.moment(start, seen.ledger.zone)
        if until <= since or ((until - since) // 60 > 100_000 and period == "minute"):
            raise Problem(400, "the span ends before it begins, or holds too many minutes")
        rows = await run_in_threadpool(
            history, seen.ledger, period, since, until, Selection("hypervisor", "machine", (subject.name,))
        )
        moved = {r.time: r for r in rows}
        first = min(moved, default=until)  # before it was ever seen there is nothing to say
        return ListAnswer(
            data=[
                {
                    "timestamp": datetime.fromtimestamp(at, seen.ledger.zone).strftime(_SHOWN[period]),
                    "rx_bytes": moved[at].rx_bytes if at in moved else 0,
                    "tx_bytes": moved[at].tx_bytes if at in moved else 0,
                    "total_bytes": moved[at].bytes if at in moved else 0,
                }
                for at in page.of(
                    list(
                        calendar.buckets(
                            period, max(since, first), min(until, int(time.time()) + 1), seen.ledger.zone
                        )
                    )
                )
            ]
        )


def _add_log_and_rules(api: APIRouter, seen: _Seen) -> None:
    @api.get("/api/logs")
    async def logs(
        page: Page,
        start: str | None = None,
        end: str | None = None,
        vmid: str | None = None,
        most: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> ListAnswer:
        """What rules did to machines, the oldest first; of the last seven days where no time is given. With
        `limit`, `offset` leaves out the newest.
        """
        until = int(time.time()) + 1 if end is None else calendar.moment(end, seen.ledger.zone)
        since = max(0, until - 7 * 86_400) if start is None else calendar.moment(start, seen.ledger.zone)

        def asked() -> list[Entry]:
            page.counted(logged(seen.ledger, since, until, vmid, "hypervisor"))
            newest = most if page.limit is None else page.limit
            return log(seen.ledger, since, until, newest, vmid, "hypervisor", offset=page.offset)

        entries = await run_in_threadpool(asked)
        return ListAnswer(
            data=[
                {
                    "vmid": _number(e.subject.partition("@")[0]),
                    "rule_name": e.rule,
                    "action": e.action if e.outcome != "undone" else f"undo {e.action}",
                    "reason": e.reason,
                    "timestamp": _iso(e.time, seen.ledger.zone),
                    "success": e.outcome in ("done", "undone"),
                    "error": e.error,
                }
                for e in entries
            ]
        )

    @api.get("/api/rules")
    async def configured(page: Page) -> ListAnswer:
        """The rules as the configuration has them."""
        return ListAnswer(
            data=[dict(r) for r in page.of([] if seen.polled is None else list(seen.polled.given))]
        )


def _period(period: str, zone: tzinfo) -> tuple[int, int]:
    """This hour, day or month until now; the last five minutes."""
    now = int(time.time())
    return (now - 300 if period == "minute" else calendar.floor(period, now, zone)), now + 1


def _iso(at: int, zone: tzinfo) -> str:
    return calendar.show(at, zone)


def _number(vmid: str) -> int | str:
    return int(vmid) if vmid.isdigit() else vmid


def _order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 62, name)
