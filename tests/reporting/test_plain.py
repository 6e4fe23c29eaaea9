"""What others chose as a name is shown, never obeyed, in each of the formats."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from rich.text import Text

from replaykit.attribution.gate import Limits, judge
from replaykit.attribution.labels import Labels
from replaykit.attribution.measured import Endpoint, Measured
from replaykit.outputs import influxdb
from replaykit.outputs.files import CsvOutput, JsonlOutput, Rotation
from replaykit.plain import csv_cell, json_text, visible
from replaykit.records.exchange import SCHEMA
from replaykit.reporting import gate, terminal
from replaykit.reporting.render import records_as_csv
from replaykit.rules import notify
from tests.hostile import NAMES, harmless
from tests.mutate import write
from tests.talk import Talk

REPLAYKIT = [sys.executable, "-m", "replaykit"]


@pytest.mark.parametrize("name", NAMES)
def test_visible_text_is_one_harmless_line_that_still_tells_the_name(name: str) -> None:
    shown = visible(name)
    assert harmless(shown) and "\n" not in shown
    assert visible("日本語 ünï 🦀") == "日本語 ünï 🦀"
    if name.isprintable():
        assert shown == name


@pytest.mark.parametrize("name", NAMES)
def test_json_is_the_same_value_and_harmless(name: str) -> None:
    text = json_text({"name": name}, indent=2)
    assert harmless(text) and json.loads(text) == {"name": name}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_markup_and_never_obeys_it(name: str) -> None:
    table = terminal.PlainTable(title=f"of {visible(name)}", caption=visible(name))
    table.add_column("name")
    table.add_row(name)
    text = terminal.as_text(table)
    assert visible(name) in text and harmless(text)


def test_a_live_view_that_fails_says_so_once_and_ends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __rich_console__(self, *_: object) -> object:
            raise ValueError("no such style")

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    view = terminal.LiveView()
    view.start()
    for _ in range(3):
        view.update(Broken())  # type: ignore[arg-type]
    view.update(Text("good"))
    view.stop()
    seen = capsys.readouterr()
    text = " ".join((seen.out + seen.err).split())
    assert text.count("cannot be shown: ValueError: no such style; the work goes on") == 1 and "good" in text


@pytest.mark.parametrize("name", NAMES)
def test_csv_cells_are_no_formulas(name: str) -> None:
    assert not csv_cell(name).startswith(("=", "+", "-", "@"))
    [row] = csv.DictReader(io.StringIO(records_as_csv([{"endpoint": name, "bytes": -5}])))
    assert row == {"endpoint": csv_cell(name), "bytes": "-5"}


def _exchanges(name: str) -> pa.RecordBatch:
    values = {
        f.name: name if pa.types.is_string(f.type) else True if pa.types.is_boolean(f.type) else 1
        for f in SCHEMA
    }
    arrays = [
        (
            pa.array([values[f.name]], pa.int64()).cast(f.type)
            if pa.types.is_timestamp(f.type)
            else pa.array([values[f.name]], f.type)
        )
        for f in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


@pytest.mark.parametrize("name", [n for n in NAMES if "\udcff" not in n])
def test_files_of_lines(name: str, tmp_path: Path) -> None:
    for kind, target in ((CsvOutput, "x.csv"), (JsonlOutput, "x.jsonl")):
        output = kind(str(tmp_path / target), Rotation())
        output.exchanges(_exchanges(name))
        output.close()
    [row] = csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text()))
    assert row["target"] == csv_cell(name) and row["link_bytes"] == "1"
    text = (tmp_path / "x.jsonl").read_text()
    assert json.loads(text)["target"] == name and harmless(text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", gate.FORMATS)
def test_every_format_of_the_gate(name: str, kind: str) -> None:
    measured = Measured({name: Endpoint(1.0, 900.0, 900), "/": Endpoint(1.0, 1.0, 1)})
    text = gate.render(judge(measured, Limits(share=0.5)), kind)
    assert harmless(text)
    if kind == "junit":
        cases = ElementTree.fromstring(text).findall("testcase")
        assert [c.get("name") for c in cases] == [visible(name), "/"]
    elif kind == "sarif":
        [result] = json.loads(text)["runs"][0]["results"]
        assert result["locations"][0]["logicalLocations"][0]["name"] == name
    elif kind == "json":
        assert json.loads(text)["endpoints"][0]["endpoint"] == name
    elif kind == "github":
        assert [line.split(" ")[0] for line in text.splitlines()] == ["::error", "::notice"]
    elif kind == "markdown":
        outside = re.sub(r"(`+) ?.*?[^`]\1(?!`)", "", text)
        assert "script" not in outside and "FAKE" not in outside
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) == 4 and all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in rows)


@pytest.mark.parametrize("name", NAMES)
def test_alerts_and_metrics(name: str) -> None:
    event = {
        "kind": "firing", "rule": "loud", "group": name, "metric": "bytes", "value": 2.0, "threshold": 1.0,
        "window_s": 60, "began": "then", "at": "now", "id": "1", "severity": "warning",
        "top": [{"endpoint": name, "bytes": 2, "share": 1.0}],
    }  # fmt: skip
    said = notify.text(event)
    assert harmless(said) and len(said.splitlines()) == 6
    _, slack = notify._shaped({"kind": "slack", "url": "http://127.0.0.1"}, event)
    assert "<" not in slack["text"]
    notify._command(["true"], event)
    assert harmless(Labels().of(name))
    assert harmless(influxdb._escaped(name)) and "\n" not in influxdb._escaped(name)


def _capture(path: Path) -> Path:
    talk = Talk().open()
    for target in (
        b"/search[/b]",
        b"/[bold red]x",
        b"/\x1b[31mred\x1b]0;owned\x07",
        b"/\xe2\x80\xaegnp",
        b"/\xff\xfe",
    ):
        for host in (b"shop[/b]", b"\x1b]0;owned\x07", b"=1+1"):
            talk.client(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: [/b]\r\n\r\nabc")
    path.write_bytes(write(talk.close().packets))
    return path


def _on_a_terminal(*arguments: str) -> tuple[int, str]:
    """As a person sees it; rich's own colours left out."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*REPLAYKIT, *arguments],
        stdout=child,
        stderr=child,
        stdin=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"},
    )
    os.close(child)
    seen = b""
    while True:
        try:
            piece = os.read(parent, 65_536)
        except OSError:  # the terminal's other side has gone
            break
        seen += piece
    os.close(parent)
    return process.wait(), seen.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--by", "endpoint,host,content_type"],
        ["report", "--by", "host", "--format", "csv"],
        ["report", "--savings"],
        ["exchanges"],
        ["exchanges", "--format", "csv"],
        ["exchanges", "--format", "jsonl"],
        ["gate", "--threshold", "1B"],
    ],
)
def test_no_command_passes_control_codes_on(arguments: list[str], tmp_path: Path) -> None:
    path = str(_capture(tmp_path / "x[red].pcap"))
    piped = subprocess.run([*REPLAYKIT, arguments[0], path, *arguments[1:]], capture_output=True, check=False)
    assert piped.returncode == (1 if arguments[0] == "gate" else 0), piped.stderr
    assert harmless((piped.stdout + piped.stderr).decode().replace("\t", "").replace("\r\n", "\n"))
    status, seen = _on_a_terminal(arguments[0], path, *arguments[1:])
    assert (
        status == piped.returncode
        and "\x1b]0;" not in seen
        and "owned\x07" not in seen
        and "\x1b[31mred" not in seen
    )


def test_a_piped_table_is_neither_cut_nor_wrapped(tmp_path: Path) -> None:
    talk = Talk().open().client(b"GET /" + b"long/" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    talk.server(b"HTTP/1.1 204 No Content\r\n\r\n")
    path = tmp_path / "a.pcap"
    path.write_bytes(write(talk.close().packets))
    done = subprocess.run(
        [*REPLAYKIT, "report", str(path), "--by", "path"],
        capture_output=True,
        check=False,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert b"/" + b"long/" * 100 in done.stdout


@pytest.mark.parametrize(
    "arguments", [["report"], ["report", "--format", "json"], ["exchanges", "--format", "jsonl"]]
)
def test_a_full_disk_under_standard_output_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    path = str(_capture(tmp_path / "a.pcap"))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*REPLAYKIT, arguments[0], path, *arguments[1:], "--quiet"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    said = done.stderr.decode().splitlines()
    assert done.returncode == 2 and "cannot be written: no space left on device" in said[0]
    assert said[1:] == (
        [] if arguments[0] == "report" else ["replaykit: standard output: 15 exchanges were not written"]
    )
