"""All benchmarks, side by side in one run: `GOREPLAY=/path/to/gor python -m bench.run`.

GOREPLAY is GoReplay 2.0 for files; GOREPLAY_LIVE (default the same) captures live. Writes
bench/RESULTS.md and bench/scale.png. Figures are ratios of the best of ROUNDS runs taken in turn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import captures, measure, replay
from bench.captures import Recorded
from bench.measure import Cost
from ci.servers import BODY, namespaces, nghttpd, nginx, wrk

ROUNDS = 3
ENDINGS = {"replaykit to Parquet": "parquet", "replaykit to .gor": "gor"}
RESULTS = Path(__file__).parent / "RESULTS.md"
REPLAYKIT = [sys.executable, "-m", "bench.plain"]
SEPARATOR = "\n🐵🙈🙉\n".encode()


def best(costs: list[Cost]) -> Cost:
    """The least of each figure: noise only ever adds."""
    return Cost(min(c.wall_s for c in costs), min(c.cpu_s for c in costs), max(c.peak_mb for c in costs))


def gor_requests(folder: Path) -> int:
    """Requests in all .gor files of a folder."""
    found = 0
    for path in folder.glob("*.gor"):
        with path.open("rb") as file:
            rest = b""
            while piece := file.read(64 << 20):
                parts = (rest + piece).split(SEPARATOR)
                rest = parts.pop()
                found += sum(p.startswith(b"1 ") for p in parts)
    return found


def table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body]) + "\n"


def shown(text: str, rows: list[list[str]]) -> str:
    return text + table(rows)


def _loaded(module: str, function: str) -> str:
    """A part whose libraries are loaded only when it is wanted: a child's peak memory counts its parent's
    too.
    """
    return shown(*getattr(importlib.import_module(f"bench.{module}"), function)())


def files(goreplay: str, recorded: Recorded, what: str) -> str:
    """One capture file through GoReplay, replaykit and plain copying, in turn."""
    runs: dict[str, list[Cost]] = {}
    counts: dict[str, int] = {}
    size = 0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)
            measure.warm(recorded.path)
            cost = measure.goreplay_file(goreplay, recorded.path, recorded.port, out / "go.gor")
            runs.setdefault("GoReplay 2.0 to .gor", []).append(cost)
            counts["GoReplay 2.0 to .gor"] = gor_requests(out)
        for label, ending in (("replaykit to Parquet", "parquet"), ("replaykit to .gor", "gor")):
            with tempfile.TemporaryDirectory() as name:
                target = Path(name) / f"out.{ending}"
                command = [
                    *REPLAYKIT,
                    "exchanges",
                    str(recorded.path),
                    "--quiet",
                    "--overwrite",
                    "--to",
                    str(target),
                ]
                measure.warm(recorded.path)
                runs.setdefault(label, []).append(measure.run(command))
                counts[label] = _rows(target) if ending == "parquet" else gor_requests(Path(name))
                if ending == "gor":
                    size = target.stat().st_size
                    copy = ["cp", str(target), str(Path(name) / "copy")]
                    measure.warm(target)
                    runs.setdefault("copying as many bytes (cp)", []).append(measure.run(copy))
    script = [sys.executable, "-m", "bench.dpkt_script", str(recorded.path), str(recorded.port)]
    if what == "loopback":
        measure.warm(recorded.path)
        runs["a plain dpkt script"] = [measure.run(script)]
    peer = best(runs["GoReplay 2.0 to .gor"])
    rows = [["", "wall", "CPU", "wall: GoReplay is", "CPU: GoReplay is", "peak memory", "exchanges"]]
    for label, costs in runs.items():
        c = best(costs)
        rows.append(
            [
                label,
                f"{c.wall_s:.2f} s",
                f"{c.cpu_s:.2f} s",
                f"{peer.wall_s / c.wall_s:.1f} x",
                f"{peer.cpu_s / c.cpu_s:.1f} x",
                f"{c.peak_mb:,.0f} MB",
                f"{counts[label]:,} of {recorded.exchanges:,}" if label in counts else "",
            ]
        )
    return (
        f"{what}: {recorded.packets:,} packets, {recorded.path.stat().st_size / 1e6:,.0f} MB, "
        f"{recorded.exchanges:,} exchanges in nginx's log; the .gor is {size / 1e6:,.0f} MB.\n\n{table(rows)}"
    )


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(path).metadata.num_rows)


def floor(recorded: Recorded) -> str:
    """The engine with columns and Parquet against the loop that walks packet headers."""
    walks, engines = [], []
    for _ in range(ROUNDS):
        measure.warm(recorded.path)
        out = subprocess.run(
            [sys.executable, "-m", "bench.floor", str(recorded.path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found = json.loads(out.splitlines()[-1])
        walks.append(found["walk_s"])
        engines.append(found["engine_s"])
    walk, engine = min(walks), min(engines)
    return (
        f"On the loopback file: walking headers {walk:.2f} s, engine with all columns and Parquet "
        f"{engine:.2f} s wall: **{engine / walk:.2f} times**.\n"
    )


@contextmanager
def _beside(command: list[str]) -> Iterator[list[float]]:
    """A capture beside the load; gives its CPU seconds, start-up left out, when it has ended."""
    cpu: list[float] = []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        time.sleep(3)
        before = measure.process_cpu_s(process.pid)
        try:
            yield cpu
            time.sleep(1.5)
            cpu.append(measure.process_cpu_s(process.pid) - before)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def live(goreplay: str, seconds: int) -> str:
    """Loopback at the highest rate, with nothing, GoReplay and replaykit beside it."""
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    lost: dict[str, str] = {}
    for _ in range(ROUNDS):
        for label in ("nothing", "GoReplay", *ENDINGS):
            with tempfile.TemporaryDirectory() as name, nginx(Path(name)) as server:
                url = f"http://127.0.0.1:{server.port}/"
                command = {
                    "nothing": ["sleep", "1000"],
                    "GoReplay": [
                        goreplay,
                        "--input-raw",
                        f":{server.port}",
                        "--input-raw-track-response",
                        "--output-null",
                    ],
                    **{label: _captured(server.port, f"{name}/out.{end}") for label, end in ENDINGS.items()},
                }[label]
                with _beside(command) as cpu:
                    rates.setdefault(label, []).append(wrk(url, seconds, 64, root=Path(name)))
                time.sleep(1.2)
                served = len(server.log.read_text().splitlines())
                costs.setdefault(label, []).append(cpu[0] / served * 1e6)
                if label in ENDINGS:
                    lost[label] = f"{served - _kept(Path(name)):,} of {served:,}"
    rows = [["beside it", "served", "fall", "CPU per exchange", "lost"]]
    free = max(rates["nothing"])
    for label, found in rates.items():
        rate = max(found)
        cpu_us = min(costs[label])
        shown = "" if label == "nothing" else f"{cpu_us:.2f} µs"
        rows.append([label, f"{rate:,.0f}/s", f"{1 - rate / free:.0%}", shown, lost.get(label, "")])
    ratio = min(costs["GoReplay"]) / min(costs["replaykit to Parquet"])
    return f"{table(rows)}\nCPU per exchange: GoReplay is **{ratio:.1f} x**.\n"


def _captured(port: int, target: str) -> list[str]:
    return [*REPLAYKIT, "capture", f"lo:{port}", "--quiet", "--to", target]


def _kept(folder: Path) -> int:
    """Exchanges in the one file that a capture wrote."""
    parquet = folder / "out.parquet"
    return _rows(parquet) if parquet.exists() else gor_requests(folder)


def live_http2(requests: int = 300_000) -> str:
    """h2load and nghttpd over loopback, replaykit beside them."""
    found: list[list[str]] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "item.json").write_text(BODY)
            with nghttpd(Path(name)) as port, _beside(_captured(port, f"{name}/out.parquet")) as cpu:
                url = f"http://127.0.0.1:{port}/item.json"
                load = ["h2load", "-n", str(requests), "-c", "16", "-m", "10", url]
                subprocess.run(load, stdout=subprocess.DEVNULL, check=True)
            lost = requests - _rows(Path(name) / "out.parquet")
            found.append([f"{cpu[0] / requests * 1e6:.2f} µs", f"{lost:,} of {requests:,}"])
    return table([["CPU per exchange", "lost"], min(found)])


def headers_only(goreplay: str, seconds: int) -> str:
    """Answers of 100 kB between two namespaces, packets of 1,500 bytes."""
    costs: dict[str, list[float]] = {}
    notes = ""
    for _ in range(ROUNDS):
        for label in ("GoReplay", "replaykit --headers-only"):
            with (
                tempfile.TemporaryDirectory() as name,
                namespaces("rk-live") as (client, side),
                nginx(Path(name), "10.77.0.2", 80, prefix=side) as server,
            ):
                command = {
                    "GoReplay": [
                        goreplay,
                        "--input-raw",
                        ":80",
                        "--input-raw-track-response",
                        "--output-null",
                    ],
                    "replaykit --headers-only": [
                        *REPLAYKIT,
                        "capture",
                        "veth0:80",
                        "--headers-only",
                        "--quiet",
                        "--to",
                        f"{name}/out.parquet",
                    ],
                }[label]
                pid_command = [*side, *command]
                with _beside(pid_command) as cpu:
                    wrk("http://10.77.0.2/files/100k.bin", seconds, 8, mix=False, prefix=client)
                time.sleep(1.2)
                served = len(server.log.read_text().splitlines())
                costs.setdefault(label, []).append(cpu[0] / served * 1e6)
                if label.startswith("replaykit"):
                    notes = f"{_rows(Path(name) / 'out.parquet'):,} of {served:,} exchanges"
    ours, peer = min(costs["replaykit --headers-only"]), min(costs["GoReplay"])
    return (
        f"GoReplay {peer:.0f} µs, replaykit {ours:.1f} µs CPU per exchange: GoReplay is **{peer / ours:.0f}"
        f" x** ({notes}).\n"
    )


def http2(recorded: Recorded, alike: Recorded) -> str:
    """HTTP/2 beside HTTP/1 of the same sizes, and beside tshark listing the same requests."""
    costs: dict[str, list[Cost]] = {}
    counts: dict[str, int] = {}
    tshark = [
        "tshark", "-r", str(recorded.path), "-d", f"tcp.port=={recorded.port},http2", "-Y",
        "http2.headers.method", "-T", "fields", "-e", "tcp.stream", "-e", "http2.streamid", "-e",
        "http2.headers.path",
    ]  # fmt: skip
    for _ in range(ROUNDS):
        for label, one in (("HTTP/2", recorded), ("HTTP/1", alike)):
            with tempfile.TemporaryDirectory() as name:
                target = Path(name) / "out.parquet"
                measure.warm(one.path)
                command = [
                    *REPLAYKIT,
                    "exchanges",
                    str(one.path),
                    "--quiet",
                    "--overwrite",
                    "--to",
                    str(target),
                ]
                costs.setdefault(label, []).append(measure.run(command))
                counts[label] = _rows(target)
    measure.warm(recorded.path)
    costs["tshark, HTTP/2"] = [measure.run(tshark)]
    counts["tshark, HTTP/2"] = counts["HTTP/2"]
    rows = [["", "wall", "CPU", "exchanges", "exchanges/s"]]
    rate = {}
    for label, found in costs.items():
        c = best(found)
        rate[label] = counts[label] / c.wall_s
        logged = {"HTTP/1": alike.exchanges}.get(label, recorded.exchanges)
        rows.append(
            [
                label,
                f"{c.wall_s:.2f} s",
                f"{c.cpu_s:.2f} s",
                f"{counts[label]:,} of {logged:,}",
                f"{rate[label]:,.0f}",
            ]
        )
    return (
        f"{recorded.packets:,} packets of HTTP/2, {alike.packets:,} of HTTP/1.\n\n{table(rows)}\n"
        f"HTTP/1 is **{rate['HTTP/1'] / rate['HTTP/2']:.2f} x** as fast; "
        f"tshark takes **{rate['HTTP/2'] / rate['tshark, HTTP/2']:.0f} x** as long.\n"
    )


def tls(recorded: Recorded, keys: Path) -> str:
    """Bytes through TLS with a key log, in the clear, and through the cipher alone."""
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "out.parquet"
        options = ["--quiet", "--overwrite", "--to", str(target)]
        command = [*REPLAYKIT, "exchanges", str(recorded.path), *options]
        found: dict[str, list[Cost]] = {}
        for _ in range(ROUNDS):
            measure.warm(recorded.path)
            found.setdefault("with keys", []).append(measure.run([*command, "--tls-keys", str(keys)]))
            rows = _rows(target)
            found.setdefault("without keys", []).append(measure.run(command))
            clear = captures.cleartext()
            found.setdefault("the same in the clear", []).append(
                measure.run([*REPLAYKIT, "exchanges", str(clear.path), *options])
            )
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, record = AESGCM(bytes(32)), bytes(16_400)
    sealed = cipher.encrypt(bytes(12), record, b"12345")
    n = recorded.path.stat().st_size // len(record)
    begun = time.process_time()
    for _ in range(n):
        cipher.decrypt(bytes(12), sealed, b"12345")
    alone = time.process_time() - begun
    costs = {label: best(c).cpu_s for label, c in found.items()}
    base = costs["the same in the clear"]
    rows_ = [
        ["", "CPU"],
        *([label, f"{c:.2f} s"] for label, c in costs.items()),
        ["the cipher alone", f"{alone:.2f} s"],
    ]
    return (
        f"{recorded.path.stat().st_size / 1e6:,.0f} MB, {rows:,} of {recorded.exchanges:,} exchanges"
        f" read.\n\n{table(rows_)}\nReading TLS costs the cipher and"
        f" **{(costs['with keys'] - alone) / base:.1f} x** the clear text.\n"
    )


def scale() -> str:
    """Cost per packet over the number of packets and of connections; draws bench/scale.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def per_packet_ns(packets: int, connections: int) -> float:
        path = captures.regular(packets, connections)
        found = []
        for _ in range(ROUNDS):
            out = subprocess.run(
                [sys.executable, "-m", "bench.floor", str(path)], capture_output=True, text=True, check=True
            ).stdout
            result = json.loads(out.splitlines()[-1])
            found.append(result["engine_cpu_s"] / result["packets"] * 1e9)
        if packets > 2_000_000:
            path.unlink()
        return min(found)

    by_packets = [(n, per_packet_ns(n, 100)) for n in (10**4, 10**5, 10**6, 10**7)]
    by_connections = [(n, per_packet_ns(10**6, n)) for n in (10, 100, 1000, 10_000, 100_000)]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for axis, points, title in (
        (left, by_packets, "packets, 100 connections"),
        (right, by_connections, "connections, 10^6 packets"),
    ):
        axis.semilogx(*zip(*points, strict=True), "o-")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    left.set_ylabel("CPU ns per packet, with Parquet")
    left.set_ylim(0)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "scale.png", dpi=110)
    lines = [
        ["packets", *(f"{n:,}" for n, _ in by_packets)],
        ["ns per packet", *(f"{c:.0f}" for _, c in by_packets)],
    ]
    more = [
        ["connections", *(f"{n:,}" for n, _ in by_connections)],
        ["ns per packet", *(f"{c:.0f}" for _, c in by_connections)],
    ]
    return f"{table(lines)}\n{table(more)}\n![cost per packet](scale.png)\n"


def many_keys() -> str:
    """What 500,000 exchanges cost of which each has an endpoint and a host of its own, and ones that share a
    few.
    """
    scattered, few = captures.scattered(), captures.regular(1_000_000, 2000)
    rows = [["", "by", "wall", "peak memory"]]
    for label, path, by in (
        ("a path and a host each", scattered, "endpoint"),
        ("a path and a host each", scattered, "host"),
        ("a path and a host each", scattered, "path"),
        ("1,000 paths, one host", few, "path"),
    ):
        found = best([measure.run([*REPLAYKIT, "report", str(path), "--by", by]) for _ in range(ROUNDS)])
        rows.append([label, by, f"{found.wall_s:.2f} s", f"{found.peak_mb:,.0f} MB"])
    return table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=12, help="of each live run")
    parser.add_argument("--only", default="", help="names of parts, comma between")
    args = parser.parse_args()
    wanted = [w for w in args.only.split(",") if w]
    own = {
        "Shipping to Elasticsearch": lambda: _loaded("ship", "shipping"),
        "Shipping beside a live capture": lambda: _loaded("ship", "live"),
        "A day of 100 million exchanges": lambda: _loaded("archive", "day"),
        "The ledger": lambda: _loaded("ledger", "results"),
        "Forwarding": lambda: _loaded("forward", "results"),
        "Users": lambda: _loaded("users", "results"),
        "Machines": lambda: _loaded("machines", "results"),
        "Anomalies": lambda: _loaded("anomalies", "results"),
        "In flight": lambda: _loaded("in_flight", "results"),
    }
    alone = bool(wanted) and all(any(w.lower() in n.lower() for n in own) for w in wanted)
    goreplay = os.environ.get("GOREPLAY", "")
    if not goreplay and not alone:
        print(
            "set GOREPLAY to GoReplay 2.0's program (and GOREPLAY_LIVE to one for live capture)",
            file=sys.stderr,
        )
        return 2
    live_program = os.environ.get("GOREPLAY_LIVE", goreplay)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    parts = {
        "Files: small API exchanges on loopback": lambda: files(goreplay, captures.loopback(), "loopback"),
        "Files: the same over veth, 1,500 bytes a packet": lambda: files(goreplay, captures.veth(), "veth"),
        "Against walking headers": lambda: floor(captures.loopback()),
        "Live on loopback": lambda: live(live_program, args.seconds),
        "Live HTTP/2 on loopback": live_http2,
        "Live, headers only, 100 kB answers over veth": lambda: headers_only(live_program, args.seconds),
        "HTTP/2": lambda: http2(captures.http2(), captures.http1_alike()),
        "TLS with a key log": lambda: tls(*captures.tls()),
        "Scale": scale,
        "Very many keys": many_keys,
        "Replay as fast as possible": lambda: shown(*replay.fast(goreplay)),
        "Replay at a recorded pace": lambda: shown(*replay.paced(goreplay)),
        "Reading and filtering a .gor": lambda: shown(*replay.reading(goreplay)),
        "Middleware": lambda: shown(*replay.middleware(goreplay)),
        **own,
    }
    text = RESULTS.read_text() if RESULTS.exists() else ""
    sections = dict(re.findall(r"^## (.*?)\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name, part in parts.items():
        if wanted and not any(w.lower() in name.lower() for w in wanted):
            continue
        print(f"{name} ...", flush=True)
        sections[name] = part().rstrip() + "\n\n"
        print(sections[name], flush=True)
        RESULTS.write_text(_document(sections, list(parts)))
    return 0


INTRODUCTION = """# Side by side with GoReplay

Made by `GOREPLAY=/path/to/gor make bench` on two cores of a noisy virtual machine; the parties of a part ran in
turn, each figure is the best of three. "GoReplay is 12 x" means that it took twelve times as much.
Before each timed run the input is read and as much memory as the output needs is touched, untimed: a
virtual machine pays for the first touch of memory, whoever does it.
GoReplay is 2.0.0 for files, timed to its "stopped reading" line; 1.3.2 for live capture, with libpcap.

"""  # noqa: E501


def _document(sections: dict[str, str], order: list[str]) -> str:
    known = [n for n in order if n in sections] + [n for n in sections if n not in order]
    return INTRODUCTION + "".join(f"## {name}\n\n{sections[name]}" for name in known).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
