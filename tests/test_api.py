"""replaykit as a library: the commands as calls."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import replaykit
from ci.servers import nginx
from samples.make import OUT
from tests.mutate import write
from tests.outputs.conftest import report
from tests.talk import Talk
from tests.target import OK, get, target, until


@pytest.fixture(scope="module")
def recording() -> replaykit.Recording:
    return replaykit.read(str(OUT))


def test_import_is_cheap() -> None:
    """The names are there, and nothing of them is loaded before it is asked for."""
    code = (
        "import sys, replaykit; assert 'pyarrow' not in sys.modules; assert callable(replaykit.read);"
        " print(*dir(replaykit))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(replaykit.__all__) >= {"read", "capture", "report", "gate", "replay", "Ledger"}
    assert "__all__" in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        replaykit.nothing  # noqa: B018


def test_reports_agree_with_the_command(recording: replaykit.Recording) -> None:
    expected = report(str(OUT), "--by", "host,status")
    assert recording.exchanges.num_rows == expected["total"]["requests"]
    assert recording.account is not None and recording.account["bytes"] == expected["account"]["bytes"]
    for source in (recording.exchanges, str(OUT), recording.exchanges.to_batches()):
        assert replaykit.report(source, by="host,status").to_pylist() == expected["rows"]
    assert replaykit.report(recording.exchanges.slice(0, 0)).num_rows == 0


def test_increments_add_up_to_exchanges(tmp_path: Path) -> None:
    talk = Talk().open().client(get("/film")).server(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    for _ in range(5):
        talk.start += 1_000_000_000
        talk.server(b"x" * 1000)
    talk.client(get("/short")).server(OK)
    path = tmp_path / "film.pcap"
    path.write_bytes(write(talk.close().packets))
    found = replaykit.read(str(path), slice="1s")
    assert found.increments is not None
    film, short = found.exchanges.to_pylist()
    assert short["exchange"] == 0 and set(pc.unique(found.increments["exchange"]).to_pylist()) == {
        film["exchange"]
    }
    assert pc.sum(found.increments["response_body_bytes"]).as_py() == film["response_body_bytes"] == 5000
    assert found.increments.num_rows == 6 and found.increments["last"].to_pylist().count(True) == 1


@pytest.mark.parametrize("slice", [None, "1s"])
def test_captures_and_parquet_together(tmp_path: Path, slice: str | None) -> None:
    parquet, archive = tmp_path / "a.parquet", tmp_path / "archive"
    for to in (parquet, f"{archive}/"):
        subprocess.run(
            [sys.executable, "-m", "replaykit", "exchanges", str(OUT), "--quiet", "--to", str(to)], check=True
        )
    one = replaykit.read(str(OUT), slice=slice)
    both = replaykit.read(str(OUT), str(parquet), str(archive), slice=slice)
    assert both.exchanges.num_rows == 3 * one.exchanges.num_rows
    assert both.exchanges.schema == one.exchanges.schema and both.account == one.account
    expected = [3 * row["requests"] for row in replaykit.report(one.exchanges).to_pylist()]
    assert [row["requests"] for row in replaykit.report(both.exchanges).to_pylist()] == expected
    assert (one.increments is None) == (slice is None) and both.increments == one.increments


def test_filters_and_what_is_wrong(tmp_path: Path) -> None:
    found = replaykit.read(
        str(OUT), filters=replaykit.Filters(allow_url=["^/orders"], redact=["authorization"])
    )
    assert set(found.exchanges["endpoint"].to_pylist()) == {"/orders"}
    for wrong, said in (
        (lambda: replaykit.read("absent.pcap"), "absent.pcap: no such file or directory"),
        (lambda: replaykit.read(str(OUT), slice="soon"), "soon"),
        (lambda: replaykit.read(str(OUT), filters=replaykit.Filters(allow_url=["("])), "regular expression"),
        (lambda: replaykit.report(str(OUT), by="colour"), "colour"),
        (lambda: replaykit.report(str(OUT), measure="weight"), "choose from wire, link, body"),
        (lambda: replaykit.gate(str(OUT)), "no limit given"),
        (lambda: replaykit.gate(str(OUT), per_endpoint=["/order=1MB"]), "did you mean '/orders'"),
        (lambda: replaykit.replay("absent.gor", to="http://127.0.0.1:1"), "absent.gor"),
        (lambda: replaykit.Ledger("nonsense:///x"), "nonsense"),
        (lambda: next(iter(replaykit.capture("eth99:80"))), "there is no interface 'eth99'"),
        (lambda: next(iter(replaykit.capture())), "name a port"),
    ):
        with pytest.raises(replaykit.UsageError, match=said.replace("(", r"\(")):
            wrong()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(write(Talk().open().client(get("/a")).server(OK).packets)[:-3])
    assert "cut short" in replaykit.read(str(cut)).troubles[0]
    with pytest.warns(UserWarning, match="cut short"):
        replaykit.report(str(cut))


def test_data_frames(recording: replaykit.Recording) -> None:
    frame = recording.to_pandas()
    assert len(frame) == recording.exchanges.num_rows and "endpoint" in frame.columns
    polars = pytest.importorskip("polars")
    assert isinstance(recording.to_polars(), polars.DataFrame)


def test_a_gate(recording: replaykit.Recording) -> None:
    verdict = replaykit.gate(recording.exchanges, threshold="1MB")
    assert not verdict.passed and [c.rule for c in verdict.failures] == ["total"]
    assert replaykit.gate(str(OUT), baseline=recording.exchanges, max_increase="0%").passed


def test_a_replay() -> None:
    with target() as there:
        found = replaykit.replay(str(OUT), to=there.url, speed="max", all_methods=True)
    assert found.stats.answered == found.stats.sent > 200 and not found.stats.errors and found.troubles == []


def test_a_replay_ends_with_ctrl_c() -> None:
    with target() as there:
        code = f"import replaykit; replaykit.replay({str(OUT)!r}, to={there.url!r}, rate=2, all_methods=True)"
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        until(lambda: there.payloads)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert said.splitlines()[-1] == "KeyboardInterrupt" and process.returncode == -signal.SIGINT


def test_a_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/usage.db"
    subprocess.run([sys.executable, "-m", "replaykit", "ship", str(OUT), "--to", url], check=True)
    from replaykit.ledger.history import totals

    ledger = replaykit.Ledger(url)
    try:
        assert sum(found.requests for found in totals(ledger, 1_690_000_000, 1_710_000_000).sums) > 200
    finally:
        ledger.close()


@pytest.mark.usefixtures("live")
def test_a_capture(tmp_path: Path) -> None:
    with nginx(tmp_path) as server:
        parts: list[Any] = []
        capture = replaykit.capture(f"lo:{server.port}", duration="4s", interval="0.5s")
        import threading
        import urllib.request

        def ask() -> None:
            for n in range(20):
                urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/{n}").read()

        asking = threading.Timer(0.7, ask)
        asking.start()
        parts = list(capture)
        asking.join()
        stopped = replaykit.capture(f"lo:{server.port}")
        threading.Timer(0.7, ask).start()
        assert next(stopped).exchanges.num_rows > 0
        stopped.close()
    exchanges = pa.Table.from_batches([p.exchanges for p in parts])
    assert exchanges.num_rows == 20 and parts[-1].drops == 0
    moved = sum(pc.sum(p.moved["response_wire_bytes"]).as_py() or 0 for p in parts)
    assert moved == pc.sum(exchanges["response_wire_bytes"]).as_py()
    assert json.dumps(replaykit.report(exchanges).to_pylist())
