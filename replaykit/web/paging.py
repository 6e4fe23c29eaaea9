"""Lists in pages: `limit` and `offset`, the count of the whole in X-Total-Count, and the pages around in Link
(RFC 8288).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response

MOST = 100_000
T = TypeVar("T")


class _Page:
    """Without a limit all of it. Responses stay lists: what there is beside them is in headers."""

    def __init__(
        self,
        request: Request,
        response: Response,
        limit: Annotated[int | None, Query(ge=1, le=MOST, description="so many at most")] = None,
        offset: Annotated[int, Query(ge=0, le=10**9, description="without the first so many")] = 0,
    ) -> None:
        self.limit, self.offset = limit, offset
        self._request, self._response = request, response

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """The rows that are asked for."""
        self.counted(len(rows))
        return rows[self.offset : None if self.limit is None else self.offset + self.limit]

    def counted(self, total: int) -> None:
        """Says how many there are."""
        self._response.headers["X-Total-Count"] = str(total)
        links = []
        if self.limit is not None and self.offset + self.limit < total:
            links.append(self._link(self.offset + self.limit, "next"))
        if self.limit is not None and self.offset:
            links.append(self._link(max(0, self.offset - self.limit), "prev"))
        if links:
            self._response.headers["Link"] = ", ".join(links)

    def _link(self, offset: int, relation: str) -> str:
        kept = [(k, v) for k, v in self._request.query_params.multi_items() if k != "offset"]
        return f'<?{urlencode([*kept, ("offset", offset)])}>; rel="{relation}"'


Page = Annotated[_Page, Depends()]
