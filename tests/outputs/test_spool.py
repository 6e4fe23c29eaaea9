"""The spool: a queue on disk that a crash does not tear, and a bound that is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaykit.errors import UsageError
from replaykit.outputs.delivery import spool as module
from replaykit.outputs.delivery.spool import Spool


def drain(spool: Spool) -> list[bytes]:
    out = []
    while (found := spool.peek()) is not None:
        out.append(found[0])
        spool.take()
    return out


def test_in_order_and_across_restarts(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1 << 30)
    for n in range(10):
        spool.put(b"%d" % n, 1)
    assert spool.peek() == (b"0", 1) == spool.peek()
    spool.take()
    spool.close()
    again = Spool(tmp_path / "s", 1 << 30)
    again.put(b"last", 1)
    assert drain(again) == [b"%d" % n for n in range(1, 10)] + [b"last"] and again.waiting_bytes == 0
    again.close()


def test_what_is_not_taken_is_given_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30)
    spool.put(b"a", 1)
    assert spool.peek() == (b"a", 1)
    spool.close()
    assert drain(Spool(tmp_path, 1 << 30)) == [b"a"]


def test_a_torn_record_is_cut_off_and_what_follows_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30)
    spool.put(b"whole", 1)
    spool.close()
    (segment,) = tmp_path.glob("*.seg")
    for torn in (b"\x10\x00\x00\x00", b"\x05\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00wrong"):
        segment.write_bytes(segment.read_bytes() + torn)
        Spool(tmp_path, 1 << 30).close()
    again = Spool(tmp_path, 1 << 30)
    again.put(b"after", 1)
    assert drain(again) == [b"whole", b"after"]


def test_beyond_the_bound_the_oldest_go_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 1000)
    spool = Spool(tmp_path, 5000)
    for n in range(100):
        spool.put(b"%03d" % n + b"x" * 97, 7)
    kept = drain(spool)
    assert kept[-1].startswith(b"099") and spool.dropped == 7 * (100 - len(kept)) > 0
    assert kept == sorted(kept) and sum(map(len, kept)) <= 5000
    spool.close()
    assert Spool(tmp_path, 5000).dropped == 7 * (100 - len(kept))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30)
    with pytest.raises(UsageError, match="another process"):
        Spool(tmp_path, 1 << 30)
    spool.close()
    assert (tmp_path / "state").stat().st_size and all(
        p.stat().st_mode & 0o077 == 0 for p in tmp_path.glob("*.seg")
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=300), st.sampled_from(["take", "reopen"])), max_size=60))
def test_it_is_a_queue(tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str]) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool, model = Spool(folder, 1 << 30), []
    for step in steps:
        if isinstance(step, bytes):
            spool.put(step, 1)
            model.append(step)
        elif step == "reopen":
            spool.close()
            spool = Spool(folder, 1 << 30)
        else:
            found = spool.peek()
            assert (found is None) == (not model)
            if found is not None:
                assert found[0] == model.pop(0)
                spool.take()
    assert drain(spool) == model
    spool.close()
