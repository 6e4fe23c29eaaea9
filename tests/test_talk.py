"""What tests are made of: the packets that are filled in are those that scapy makes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.talk import filled, layered

numbers = st.integers(0, 2**32 - 1)
ports = st.integers(1, 65_535)


@given(
    st.sampled_from([("10.0.0.1", "192.0.2.255"), ("fd00::1", "2001:db8::ffff")]), ports, ports,
    st.sampled_from(["S", "SA", "A", "PA", "FA", "R", "RA"]), numbers, numbers, st.binary(max_size=300),
)  # fmt: skip
def test_as_scapy_makes_them(
    between: tuple[str, str], sport: int, dport: int, flags: str, seq: int, ack: int, payload: bytes
) -> None:
    empty = layered((), *between, sport, dport, flags, 0, 0, b"")
    assert filled(empty, seq, ack, payload) == layered((), *between, sport, dport, flags, seq, ack, payload)
