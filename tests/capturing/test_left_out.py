"""What a .gor file could not hold: said in it, added up over runs, passed by as a message, and not to be
forged.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from replaykit.capturing.left_out import LeftOut, find
from replaykit.cli.main import main
from replaykit.records.message import SEPARATOR
from tests.mutate import write
from tests.talk import Talk

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


def _capture(path: Path, body: bytes = b"") -> str:
    """Two whole exchanges, a response alone, and an exchange whose response is cut."""
    post = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    whole = Talk(sport=1).open().client(GET).server(OK).client(post).server(OK).close()
    lone = Talk(sport=2).server(OK)
    cut = Talk(sport=3).open().client(b"PUT /c HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf")
    path.write_bytes(write([*whole.packets, *lone.packets, *cut.packets]))
    return str(path)


@pytest.mark.parametrize("name", ["a.gor", "a.gor.gz"])
def test_it_is_said_and_adds_up(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture, gor = _capture(tmp_path / "a.pcap"), str(tmp_path / name)
    for times in (1, 2):
        assert main(["exchanges", capture, "--quiet", "--append", "--to", gor]) == 0
        raw = Path(gor).read_bytes()
        data = gzip.decompress(raw) if name.endswith("gz") else raw
        found = find(data, 0, len(data))
        assert found.exchanges == times
        capsys.readouterr()
        assert main(["report", gor, "--format", "csv"]) == 0
        assert str(found) in capsys.readouterr().err
        assert main(["gate", gor, "--threshold", "1MB"]) == 0
        seen = capsys.readouterr()
        assert str(found) in seen.err and f"in {3 * times} exchanges" in seen.out


def test_a_body_cannot_say_it(tmp_path: Path) -> None:
    forged = SEPARATOR + LeftOut(1_000_000, 5).record()
    capture, gor = _capture(tmp_path / "a.pcap", forged), tmp_path / "a.gor"
    assert main(["exchanges", capture, "--quiet", "--to", str(gor)]) == 0
    data = gor.read_bytes()
    assert find(data, 0, len(data)).exchanges < 1_000


def test_a_file_without_gaps_has_no_such_record(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(write(Talk().open().client(GET).server(OK).close().packets))
    assert main(["exchanges", str(path), "--quiet", "--to", str(tmp_path / "a.gor")]) == 0
    assert b"left-out" not in (tmp_path / "a.gor").read_bytes()
