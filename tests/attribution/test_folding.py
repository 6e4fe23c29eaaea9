"""Sibling endpoints: one name everywhere, whenever it is asked for, and in the next run too."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaykit.attribution.folding import MOST, Folding, KeptFolding
from replaykit.cli.main import main
from tests.mutate import write
from tests.talk import Talk

USERS = [f"/u/{a}{b}/x" for a in "abcdefghijkl" for b in "abcdefghijkl"]


def test_more_than_a_hundred_become_one() -> None:
    names = Folding()
    names.learn_all([*USERS[:MOST], "/u/aa", "/tags/a", "/users/b/posts"])
    assert names.name("/u/aa/x") == "/u/aa/x" and names.places() == []
    names.learn_all(USERS[MOST:])
    assert names.take_news() == ["/u/{name}/*"] and names.places() == ["/u/{name}/*"]
    assert {names.name(u) for u in USERS} == {"/u/{name}/x"}
    assert names.name("/u/never-seen/y") == "/u/{name}/y"
    assert (
        names.name("/u/aa") == "/u/aa" and names.name("/u/aa/x/z") == "/u/aa/x/z"
    )  # other lengths, other places
    assert names.learn("/u/{name}/x") == "/u/{name}/x"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 9)), max_size=300),
    st.randoms(),
)
def test_the_names_do_not_depend_on_the_order(parts: list[tuple[str, int, int]], r: random.Random) -> None:
    endpoints = [f"/{a}/n{b}/m{c}" for a, b, c in parts]
    one, other, kept = Folding(most=5), Folding(most=5), Folding(most=5)
    one.learn_all(endpoints)
    r.shuffle(endpoints)
    other.learn_all(endpoints)
    assert one.places() == other.places()
    assert {e: one.name(e) for e in endpoints} == {e: other.name(e) for e in endpoints}
    kept.fold_at(one.places())
    assert {e: kept.name(e) for e in endpoints} == {e: one.name(e) for e in endpoints}


def test_memory_is_bounded() -> None:
    names = Folding(most_nodes=500)
    for a in range(90):
        for b in range(90):
            names.learn(f"/a{a}/b{b}/c")
    assert names.core.nodes == 500 and names.name("/a89/b89/c") == "/a89/b89/c"


def test_it_is_kept_for_the_next_run_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def batch(endpoints: list[str]) -> pa.RecordBatch:
        return pa.record_batch({"endpoint": pa.array(endpoints).dictionary_encode()})

    path = tmp_path / "endpoints.json"
    first = KeptFolding(path)
    assert first.rename(batch(USERS)).column(0).to_pylist() == ["/u/{name}/x"] * len(USERS)
    assert (
        "more than 100 names of endpoints beside each other: they are one now, /u/{name}/*"
        in capsys.readouterr().err
    )
    assert json.loads(path.read_text()) == {"folded": ["/u/{name}/*"]}
    second = KeptFolding(path)
    assert second.rename(batch(["/u/alice/x", "/v"])).column(0).to_pylist() == ["/u/{name}/x", "/v"]
    assert capsys.readouterr().err == ""


def test_every_command_names_them_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packets = []
    for n, user in enumerate(USERS):
        talk = Talk(sport=20_000 + n).open().client(f"GET {user} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        packets += talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + bytes(50)).close().packets
    capture = tmp_path / "a.pcap"
    capture.write_bytes(write(packets))
    parquet, gor, ledger = (str(tmp_path / n) for n in ("a.parquet", "a.gor", "usage.db"))
    outputs = [f"--to={o}" for o in (parquet, gor, f"sqlite:///{ledger}")]
    assert main(["exchanges", str(capture), "--quiet", *outputs]) == 0
    for name in (str(capture), parquet, gor):
        capsys.readouterr()
        assert main(["report", name, "--format", "json", "--quiet"]) == 0
        assert [r["endpoint"] for r in json.loads(capsys.readouterr().out)["rows"]] == ["/u/{name}/x"]
        assert main(["gate", name, "--max-share", "30%", "--format", "json", "--quiet"]) == 1
        assert [e["endpoint"] for e in json.loads(capsys.readouterr().out)["endpoints"]] == ["/u/{name}/x"]
        assert main(["gate", name, "--per-endpoint", "/u/{name}/x=1MB", "--quiet"]) == 0
        capsys.readouterr()
        assert main(["diff", name, str(capture), "--format", "json", "--quiet"]) == 0
        assert [e["endpoint"] for e in json.loads(capsys.readouterr().out)["endpoints"]] == ["/u/{name}/x"]
    assert main(["export", ledger, "--period", "month", "--since", "2020-01-01", "--format", "json"]) == 0
    assert "/u/{name}/x" in capsys.readouterr().out
