"""The wire's part of the API: the exchanges behind an endpoint or an address, from an archive of Parquet."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from replaykit.archive import find
from replaykit.archive.partitions import Window
from replaykit.ledger.store import Ledger
from replaykit.web.answers import ListAnswer, Problem
from replaykit.web.usage import between

_LAST_S = 3600
Text = Annotated[str | None, Query(max_length=2000)]


def add_exchanges(api: APIRouter, ledger: Ledger, place: str | None) -> None:
    """place: the archive; None: there is none, and the responses say how to have one."""

    def window(since: str | None, until: str | None) -> Window:
        if place is None:
            raise Problem(
                404, "no archive of exchanges: give --exchanges, where replaykit capture --to writes"
            )
        begin, end = between(ledger, since, until, _LAST_S)
        return Window(begin * 10**9, end * 10**9)

    @api.get("/api/exchanges")
    async def exchanges(
        endpoint: Text = None,
        address: Text = None,
        status: Annotated[int | None, Query(ge=1, le=999)] = None,
        since: str | None = None,
        until: str | None = None,
        order: Literal["newest", "largest"] = "newest",
        most: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ListAnswer:
        """Single exchanges of the last hour, or of a span.

        Columns are those of docs/columns.md; no header or body is among them.
        """
        span, wanted = window(since, until), find.Wanted(endpoint, address, status)
        return ListAnswer(data=await run_in_threadpool(find.exchanges, str(place), span, wanted, order, most))

    @api.get("/api/endpoints")
    async def endpoints(
        address: Text = None,
        since: str | None = None,
        until: str | None = None,
        most: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ListAnswer:
        """What each endpoint moved for an address: whom a machine or a user talks to."""
        span, wanted = window(since, until), find.Wanted(address=address)
        return ListAnswer(data=await run_in_threadpool(find.endpoints, str(place), span, wanted, most))
