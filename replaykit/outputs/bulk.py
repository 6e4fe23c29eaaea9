"""Elasticsearch's bulk requests: per-item errors, repeats, refusals."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from replaykit.errors import UsageError
from replaykit.outputs.delivery.drain import Later
from replaykit.outputs.elastic_setup import reason

BULK_BYTES = 8 << 20

Operation = tuple[bytes, bytes]
"""The action's line and the document's."""


class Bulk:
    """operations: what a record becomes. prepare: called once before; raises UsageError.

    An id makes a document that is sent twice count once.
    """

    def __init__(
        self,
        client: Any,
        operations: Callable[[bytes], Sequence[Operation]],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._operations, self._prepare = client, operations, prepare
        self._prepared = False
        self.sent = 0
        self.refused = 0
        self.trouble: str | None = None

    def deliver(self, record: bytes) -> None:
        """Returns when the server has all documents. Raises Later."""
        if not self._prepared:
            try:
                self._prepare()
            except UsageError as error:
                raise Later(str(error)) from None
            self._prepared = True
        batch: list[Operation] = []
        size = 0
        for operation in self._operations(record):
            batch.append(operation)
            size += len(operation[0]) + len(operation[1])
            if size >= BULK_BYTES:
                self._send(batch)
                batch, size = [], 0
        self._send(batch)

    def _send(self, operations: list[Operation]) -> None:
        from elasticsearch import ApiError, TransportError

        while operations:
            body = b"\n".join(line for pair in operations for line in pair) + b"\n"
            try:
                response = self._client.bulk(
                    operations=[body], filter_path="errors,items.*.status,items.*.error.reason"
                )
            except (ApiError, TransportError) as error:
                raise Later(reason(error)) from None
            if not response["errors"]:
                self.sent += len(operations)
                return
            again: list[Operation] = []
            for operation, item in zip(operations, response["items"], strict=True):
                (result,) = item.values()
                if result["status"] < 300 or result["status"] == 409:  # 409: it is there already
                    self.sent += 1
                elif result["status"] == 429 or result["status"] >= 500:
                    again.append(operation)
                else:
                    self.refused += 1
                    self.trouble = f"a document was refused: {result.get('error', {}).get('reason')}"
            operations = again
            if again:
                time.sleep(random.uniform(0, 0.5))

    def close(self) -> None:
        self._client.close()
