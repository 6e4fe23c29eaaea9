"""Exchanges as usage of their endpoints."""

from __future__ import annotations

from replaykit.attribution.usage import EndpointUsage
from replaykit.ledger.history import totals
from replaykit.ledger.store import Ledger, Written
from tests.outputs.conftest import batch

MINUTE = 60 * 10**9


def test_minutes_that_grow(tmp_path: object) -> None:
    ledger, usage = Ledger("sqlite://", "UTC"), EndpointUsage("here/1")
    usage.add(batch(10 * MINUTE, 3))
    assert ledger.write(usage.changed()) == Written(new=1)
    usage.written()
    assert list(usage.changed()) == []
    usage.add(batch(10 * MINUTE + 5 * 10**9, 2))
    usage.add(batch(11 * MINUTE, 1, "/orders"))
    assert ledger.write(usage.changed()) == Written(new=1, changed=1)
    assert ledger.write(usage.changed()) == Written(repeated=2)  # it was not noted as written
    assert {s.subject: s.requests for s in totals(ledger, 0, 10**9).sums} == {
        "/users/{id}": 5,
        "/orders/{id}": 1,
    }
    ledger.close()


def test_too_many_minutes_keep_their_sums() -> None:
    ledger, usage = Ledger("sqlite://", "UTC"), EndpointUsage("here/2", most=4)
    for minute in range(1, 21):
        usage.add(batch(minute * MINUTE, 2))
        ledger.write(usage.changed())
        usage.written()
    usage.add(batch(MINUTE, 7))  # its minute was closed long ago
    ledger.write(usage.changed())
    (row,) = totals(ledger, 0, 10**9).sums
    assert row.requests == 47
    ledger.close()
