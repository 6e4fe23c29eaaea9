"""No option is taken and then ignored: for each kind of input it changes the outcome, or is refused
by name.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from replaykit.cli.main import main
from replaykit.pipeline.options import RedactionOptions
from tests.mutate import write
from tests.talk import Talk

KINDS = ("pcap", "gor", "parquet")
COMMANDS: dict[str, list[str]] = {
    "report": ["--format", "json", "--quiet"],
    "exchanges": ["--format", "jsonl", "--quiet"],
    "gate": ["--threshold", "1GB", "--format", "json", "--quiet"],
}
EVERYWHERE = {
    "--allow-url": "users",
    "--disallow-url": "users",
    "--allow-method": "POST",
    "--disallow-method": "POST",
}
"""What each kind of input can follow."""
PACKETS = {
    "--tls-keys": "{keys}", "--protocol": "raw", "--vxlan-port": "1234", "--vni": "5",
    "--max-connections": "1", "--max-connection-buffer": "1kB", "--max-buffer": "1kB",
    "--idle-timeout": "1ms",
}  # fmt: skip
HEADERS = {"--allow-header": "X-Team:blue", "--disallow-header": "X-Team:blue"}


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One conversation on port 80 and one on port 8080, in each kind of file."""
    folder = tmp_path_factory.mktemp("kinds")
    packets = []
    for n, port in enumerate((80, 8080)):
        talk = Talk(sport=40_000 + n, dport=port).open()
        for method, path in (
            (b"GET", b"/users/7?token=hidden"),
            (b"POST", b"/orders/a"),
            (b"GET", b"/orders/b"),
        ):
            team = b"X-Team: blue\r\n" if method == b"GET" else b""
            talk.client(method + b" " + path + b" HTTP/1.1\r\nHost: shop\r\n" + team + b"\r\n")
            talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
        packets += talk.close().packets
    names = {kind: str(folder / f"a.{kind}") for kind in KINDS}
    Path(names["pcap"]).write_bytes(write(packets))
    assert main(["exchanges", names["pcap"], "--quiet", "--to", names["gor"], "--to", names["parquet"]]) == 0
    for name, text in (
        ("patterns", "/orders/{order}\n"),
        ("keys", "CLIENT_RANDOM " + "00" * 32 + " " + "00" * 48 + "\n"),
    ):
        (folder / name).write_text(text)
        names[name] = str(folder / name)
    return names


Run = Callable[..., Outcome]
Ask = Callable[..., Outcome]
"""Runs one command on one file with these options."""


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        seen = capfd.readouterr()
        return Outcome(status, seen.out, seen.err)

    return call


@pytest.fixture
def ask(command: str, kind: str, files: dict[str, str], run: Run, tmp_path: Path) -> Iterator[Ask]:
    """A store and a pipeline show what they were given, as the others do on standard output."""
    name, times = files[kind], itertools.count()
    if command == "ship":
        with _store() as (url, taken):

            def ship(*options: str) -> Outcome:
                taken.clear()
                spool = tmp_path / f"spool-{next(times)}"
                done = run("ship", name, "--to", f"{url}?spool={spool}", "--quiet", *options)
                return done._replace(out="\n".join(re.sub(r" [0-9]+$", "", line) for line in sorted(taken)))

            yield ship
    elif command == "run":

        def pipeline(*options: str) -> Outcome:
            to, flow = tmp_path / f"{next(times)}.jsonl", tmp_path / "flow.yaml"
            given = {o[2:].replace("-", "_"): v for o, v in zip(options[::2], options[1::2], strict=True)}
            filters = {n: v for n, v in given.items() if n in {f.name for f in fields(RedactionOptions)}}
            source = {
                "files": [name],
                **{n: v for n, v in given.items() if n not in {f.name for f in fields(RedactionOptions)}},
            }
            declared = {"inputs": [source], "outputs": [str(to)], **({"filters": filters} if filters else {})}
            flow.write_text(json.dumps(declared))
            done = run("run", str(flow))
            return done._replace(out=to.read_text() if to.exists() else "")

        yield pipeline
    elif command == "diff":
        yield lambda *options: run("diff", name, name, "--format", "json", "--quiet", *options)
    else:
        yield lambda *options: run(command, name, *COMMANDS[command], *options)


@contextmanager
def _store() -> Iterator[tuple[str, list[str]]]:
    """Takes line protocol as InfluxDB does (the real one is in tests/outputs); its lines."""
    taken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.extend(self.rfile.read(int(self.headers["Content-Length"])).decode().splitlines())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"influxdb://127.0.0.1:{server.server_port}/traffic", taken
        server.shutdown()


@pytest.mark.parametrize(("command", "kind"), [*itertools.product((*COMMANDS, "diff", "ship", "run"), KINDS)])
def test_each_option_acts_or_is_refused(command: str, kind: str, files: dict[str, str], ask: Ask) -> None:
    outcome = ask
    plain = outcome()
    assert plain.status == 0 and plain.out, plain.err
    acting = {**EVERYWHERE, "--endpoints": files["patterns"]}
    refused = {}
    if command in ("exchanges", "run"):
        acting["--redact-param"] = "token"
    if command in (*COMMANDS, "run"):
        (acting if kind == "parquet" else refused)["--since"] = "now"
    (acting if kind != "gor" else refused)["--port"] = "80"
    for name, value in HEADERS.items():
        (acting if kind != "parquet" else refused)[name] = value
    if kind != "pcap":
        refused |= {n: v.format(**files) for n, v in PACKETS.items()}
    if kind == "parquet":
        refused |= {"--redact": "x-team", "--max-message": "1kB"}
    for name, value in acting.items():
        done = outcome(name, value)
        assert done.status == 0 or (name == "--since" and "no exchange" in done.err), (
            name,
            done.err,
        )
        assert done.out != plain.out, f"{command} {kind}: {name} changed nothing"
    for name, value in refused.items():
        done = outcome(name, value)
        said = name if command != "run" else name[2:].replace("-", "_")
        assert done.status == 2 and said in done.err and not done.out, (name, done.err, done.out)
        assert command == "run" or len(done.err.splitlines()) == 1  # a pipeline logs its beginning and end


@pytest.mark.parametrize("options", [[*pair] for pair in EVERYWHERE.items()] + [["--endpoints", "patterns"]])
def test_a_filter_gives_the_same_from_every_kind_of_input(
    options: list[str], files: dict[str, str], run: Run
) -> None:
    given = [files.get(o, o) for o in options]
    found = []
    for kind in KINDS:
        document = json.loads(run("report", files[kind], "--format", "json", "--quiet", *given).out)
        found.append(
            [
                (r["endpoint"], r["requests"], r["request_wire_bytes"], r["response_wire_bytes"])
                for r in document["rows"]
            ]
        )
    assert found[0] == found[1] == found[2] and found[0]


def test_options_that_nothing_would_follow_are_refused(
    files: dict[str, str], run: Run, tmp_path: Path
) -> None:
    pcap, parquet = files["pcap"], str(tmp_path / "x.parquet")
    for arguments, what in (
        (["exchanges", pcap, "--to", parquet, "--set-header", "A: b"], "--set-header"),
        (["exchanges", pcap, "--to", parquet, "--prettify"], "--prettify"),
        (["exchanges", pcap, "--to", parquet, "--no-responses"], "--no-responses"),
        (["exchanges", pcap, "--rotate-size", "1MB"], "--rotate-size"),
        (["exchanges", pcap, "--append"], "--append"),
        (["report", pcap, "--savings", "--by", "host"], "--by"),
        (["capture", "lo:1", "--to", parquet, "--set-header", "A: b", "--duration", "1s"], "--set-header"),
    ):
        done = run(*arguments)
        assert done.status == 2 and what in done.err, (arguments, done.err)
        assert len(done.err.splitlines()) == 1
