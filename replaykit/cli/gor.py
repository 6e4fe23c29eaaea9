"""`gor`: GoReplay's own command line on our engine, rules and replay."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, Literal

from replaykit import __version__
from replaykit.cli import rewrites
from replaykit.engine.options import Options
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.goreplay import flags as goflags
from replaykit.goreplay.inputs.file import FileInput
from replaykit.goreplay.limiter import Limiter, parse_percent, split_limit
from replaykit.goreplay.pipeline import Echo, Input, Log, Output, Route, Settings, run
from replaykit.pipeline.options import FilterOptions, RewriteOptions
from replaykit.plain import emit, say
from replaykit.replaying.own import OwnConnections

Limited = tuple[str, Limiter | None]
_HOST_STAMPS = ("", "PCAP_TSTAMP_HOST", "PCAP_TSTAMP_HOST_LOWPREC", "PCAP_TSTAMP_HOST_HIPREC")


class Gor:
    """What a command line asks for, opened. Raises UsageError."""

    def __init__(self, flags: dict[str, Any], log: Log) -> None:
        self.f = SimpleNamespace(**flags)
        self.log = log
        self.inputs: list[tuple[Input, Limiter | None]] = []
        self.outputs: list[tuple[Output, Limiter | None]] = []
        self.echoes: list[Echo] = []
        self.queues: list[tuple[str, float, Any]] = []
        self.sink: Any = None
        self.own = OwnConnections()
        self.rules = self._rules()

    def _rules(self) -> Rules:
        f = self.f
        chosen = RewriteOptions(
            **{one.name: tuple(getattr(f, f"http_{one.name}")) for one in fields(RewriteOptions)}
        )
        filters = FilterOptions(
            allow_header=tuple(f.http_allow_header),
            disallow_header=tuple(f.http_disallow_header),
            allow_method=tuple(f.http_allow_method),
            allow_url=tuple(f.http_allow_url),
            disallow_url=(*f.http_disallow_url, *f.http_black_list),
        )
        made = rewrites.filter_rules(rewrites.rules(chosen, prefix="--http-"), filters)
        return replace(made, first_field_only=True)

    def open(self) -> None:
        """Outputs first, so that nothing is read that could not be put anywhere."""
        f = self.f
        if f.stats:
            from replaykit.goreplay.outputs.stats import StatsOutput

            # Where messages go to standard output, they are alone there.
            self.stats = StatsOutput(sys.stderr if f.output_stdout else sys.stdout)
        self._open_outputs()
        self._open_inputs()
        if not self.inputs or not self.outputs:
            raise UsageError("gor: at least one input and one output are needed (see gor --help)")

    def _limited(self, texts: Sequence[str]) -> list[Limited]:
        out = []
        for text in texts:
            target, limit = split_limit(text)
            out.append((target, None if limit is None else Limiter(limit)))
        return out

    # inputs

    def _open_inputs(self) -> None:
        from replaykit.goreplay.inputs.dummy import DummyInput
        from replaykit.goreplay.inputs.http import HttpInput
        from replaykit.goreplay.inputs.tcp import TcpInput, server_context

        f = self.f
        for _, limiter in self._limited(f.input_dummy):
            self.inputs.append((DummyInput(), limiter))
        for address, limiter in self._limited(f.input_raw):
            self.inputs.append((self._raw(address), limiter))
        for address, limiter in self._limited(f.input_tcp):
            tls = None
            if f.input_tcp_secure:
                tls = server_context(f.input_tcp_certificate, f.input_tcp_certificate_key)
            self.inputs.append((TcpInput(address, self.log, tls), limiter))
        for text in f.input_file:
            pattern, limit = split_limit(text)
            speed, limiter = _speed(limit)
            self.inputs.append(
                (
                    FileInput(
                        pattern,
                        self.log,
                        speed,
                        f.input_file_loop,
                        max(f.input_file_read_depth, 0),
                        f.input_file_max_wait or None,
                        self.rules,
                        ruled=not f.middleware,
                    ),
                    limiter,
                )
            )
        for address, limiter in self._limited(f.input_http):
            self.inputs.append((HttpInput(address), limiter))
        if f.input_kafka_host and f.input_kafka_topic:
            from replaykit.goreplay.inputs.kafka import KafkaInput

            text, limit = split_limit(f.input_kafka_offset)
            speed, limiter = _speed(limit)
            if not re.fullmatch(r"-?[0-9]+", text):
                raise UsageError(f"gor: --input-kafka-offset {text}: -1 is the newest, -2 the oldest")
            self.inputs.append((KafkaInput(self._broker("input"), int(text), speed, self.log), limiter))

    def _raw(self, address: str) -> Input:
        from replaykit.capturing.live import Settings as Capturing
        from replaykit.capturing.places import Place, parse_place
        from replaykit.goreplay.inputs.raw import CaptureFileInput, RawInput

        f = self.f
        if address.startswith("k8s://"):
            raise UsageError(
                f"gor: --input-raw {address}: pods are not looked up; name the node's interface or address"
            )
        if f.input_raw_timestamp_type not in _HOST_STAMPS:
            raise UsageError(
                f"gor: --input-raw-timestamp-type {f.input_raw_timestamp_type}: there are"
                f" {', '.join(_HOST_STAMPS[1:])}"
            )
        if f.input_raw_protocol not in ("", "http", "binary", "raw"):
            raise UsageError(f"gor: --input-raw-protocol {f.input_raw_protocol}: there are http, binary, raw")
        if f.input_raw_engine not in ("", "libpcap", "raw_socket", "pcap_file", "vxlan"):
            raise UsageError(
                f"gor: --input-raw-engine {f.input_raw_engine}: there are libpcap, raw_socket, pcap_file,"
                " vxlan"
            )
        host, ports = _split(address)
        heard = self.stats.measured if f.stats else None
        options = Options(
            ports=ports,
            requests=True,
            responses=f.input_raw_track_response,
            raw=f.input_raw_protocol in ("binary", "raw"),
            max_message_bytes=f.input_raw_max_size or f.copy_buffer_size,
            hole_ns=int(f.input_raw_expire * 1e9),
            real_ip_header=f.input_raw_realip_header,
            allow_incomplete=f.input_raw_allow_incomplete,
            vxlan_vnis=tuple(f.input_raw_vxlan_vni),
        )
        if f.input_raw_engine == "pcap_file" or re.search(r"\.(?:pcap|pcapng|cap)(?:\.gz|\.zst)?\Z", host):
            return CaptureFileInput(host, options, self.log, heard=heard)
        listed = ",".join(map(str, ports))
        if f.input_raw_engine == "vxlan":
            where = host or "0.0.0.0"
            places = [parse_place(f"vxlan://{where}:{f.input_raw_vxlan_port}/{listed}")]
        elif f.input_raw_ignore_interface and host in ("", "any", "0.0.0.0", "::"):
            names = [n for _, n in socket.if_nameindex() if n not in f.input_raw_ignore_interface]
            places = [Place(name, ports) for name in names]
        else:
            known = {"0.0.0.0": "", "::": "", "localhost": "127.0.0.1"}
            name = known.get(host, host)
            place = parse_place(f"{f'[{name}]' if ':' in name else name}:{listed or '1'}")
            places = [Place(place.interface, ports, place.host)]
        capturing = Capturing(
            places,
            expression=f.input_raw_bpf_filter or None,
            sample=f.input_raw_probability,
            workers=max(f.input_raw_workers, 1),
            buffer_bytes=f.input_raw_buffer_size or 128 << 20,
            vlans=f.input_raw_vlan_vid,
            group=None if f.input_raw_queue < 0 else f.input_raw_queue & 0xFFFF,
            promiscuous=f.input_raw_promisc,
            own_requests=f.input_raw_own_requests,
            report=lambda line: self.log(0, line),
        )
        return RawInput(capturing, options, self.log, f.input_raw_stats, self.own, heard)

    # outputs

    def _open_outputs(self) -> None:
        from replaykit.goreplay.outputs.basic import NullOutput, StdoutOutput
        from replaykit.goreplay.outputs.binary import BinaryOutput, BinarySettings
        from replaykit.goreplay.outputs.file import FileOutput, FileSettings
        from replaykit.goreplay.outputs.tcp import TcpOutput, TcpSettings, WebSocketOutput

        f = self.f
        if f.output_stdout:
            self.outputs.append((StdoutOutput(), None))
        if f.output_null:
            self.outputs.append((NullOutput(), None))
        for address, limiter in self._limited(f.output_tcp):
            tcp = TcpSettings(
                f.output_tcp_workers, f.output_tcp_sticky, f.output_tcp_secure, not f.output_tcp_skip_verify
            )
            self._queued(
                TcpOutput(address, tcp, self.log, self.own), limiter, "output_tcp", f.output_tcp_stats, 5.0
            )
        for address, limiter in self._limited(f.output_ws):
            ws = TcpSettings(f.output_ws_workers, f.output_ws_sticky, verify=not f.output_ws_skip_verify)
            self._queued(
                WebSocketOutput(address, ws, self.log, self.own), limiter, "output_ws", f.output_ws_stats, 5.0
            )
        files = FileSettings(
            f.output_file_append,
            f.output_file_size_limit or 32 << 20,
            max(f.output_file_queue_limit, 0),
            f.output_file_max_size_limit or 1 << 40,
            f.output_file_flush_interval or 0.1,
        )
        for path, limiter in self._limited(f.output_file):
            if path.startswith("s3://"):
                from replaykit.goreplay.outputs.s3 import S3Output

                self.outputs.append((S3Output(path, files, f.output_file_buffer, self.log), limiter))
            else:
                self.outputs.append((FileOutput(path, files, self.log), limiter))
        for url, limiter in self._limited(f.output_http):
            self._http(url, limiter)
        for address, limiter in self._limited(f.output_binary):
            binary = BinarySettings(
                f.output_binary_workers,
                f.output_binary_timeout or 5.0,
                f.output_tcp_response_buffer or 100 << 10,
                f.output_binary_track_response,
            )
            debug: Log = (lambda level, text: self.log(0, text)) if f.output_binary_debug else self.log
            output = BinaryOutput(address, binary, debug, self.own)
            self.outputs.append((output, limiter))
            if f.output_binary_track_response:
                self.echoes.append(output)
        if f.output_kafka_host and f.output_kafka_topic:
            from replaykit.goreplay.outputs.kafka import KafkaOutput

            self.outputs.append((KafkaOutput(self._broker("output"), self.log), None))

    def _http(self, url: str, limiter: Limiter | None) -> None:
        from replaykit.goreplay.outputs.http import HttpOutput, HttpSettings
        from replaykit.replaying.job import Sending

        f = self.f
        if f.output_http_elasticsearch and self.sink is None:
            from replaykit.goreplay.documents import ElasticsearchSink

            self.sink = ElasticsearchSink(f.output_http_elasticsearch, self.log)
        if not re.search(r"://|[.:\]]|^localhost(?:/|$)", url):
            raise UsageError(f"gor: --output-http {url}: write http://HOST[:PORT] or https://HOST[:PORT]")
        keeps_host = f.http_original_host or rewrites.sets_host(self.rules)
        sending = Sending(
            connections=f.output_http_workers if f.output_http_workers > 0 else 10_000,
            sessions=f.recognize_tcp_sessions,
            timeout_s=f.output_http_timeout if f.output_http_timeout >= 0.1 else 1.0,
            redirects=max(f.output_http_redirects, 0),
            verify=not f.output_http_skip_verify,
            own=self.own,
        )
        settings = HttpSettings(
            sending,
            queue=max(f.output_http_queue_len, 1),
            track=f.output_http_track_response,
            host=not keeps_host,
            buffer=f.output_http_response_buffer or 100 << 10,
        )
        output = HttpOutput(url, settings, self.log, None if self.sink is None else self.sink.heard)
        self._queued(output, limiter, "output_http", f.output_http_stats, f.output_http_stats_ms / 1000)
        if f.output_http_track_response:
            self.echoes.append(output)

    def _queued(self, output: Any, limiter: Limiter | None, name: str, told: bool, every_s: float) -> None:
        self.outputs.append((output, limiter))
        if told and self.f.stats:
            self.queues.append((name, max(every_s, 0.01), output))

    def _broker(self, side: str) -> Any:
        from replaykit.outputs.kafka import Broker

        f = vars(self.f)
        own = {
            name: f[f"{side}_kafka_{name}"]
            for name in ("host", "topic", "json_format", "use_sasl", "mechanism", "username", "password")
        }
        return Broker(
            own["host"],
            own["topic"],
            own["json_format"],
            own["use_sasl"],
            own["mechanism"],
            own["username"],
            own["password"],
            f["kafka_tls_ca_cert"],
            f["kafka_tls_client_cert"],
            f["kafka_tls_client_key"],
        )

    # running

    async def run(self) -> int:
        """Exit status: 0, 1 after a signal, 2 where an output lost messages."""
        from replaykit.goreplay.middleware import open_middleware

        f = self.f
        stopping, status = asyncio.Event(), 0
        loop = asyncio.get_running_loop()

        def ask() -> None:
            nonlocal status
            status = 1
            stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask)
        if f.exit_after > 0:
            loop.call_later(f.exit_after, stopping.set)
        self.open()
        split: Literal["turn", "session"] | None = None
        if f.split_output:
            split = "session" if f.recognize_tcp_sessions else "turn"
        settings = Settings(self.rules, f.prettify_http, f.copy_buffer_size or 5 << 20, split)
        route = Route(settings, self.outputs)
        if f.stats:
            route.watchers.append(self.stats)
            route.measured = all(source.measured for source, _ in self.inputs)
            self.stats.start()
        if f.middleware:
            route.middleware = await open_middleware(f.middleware, route.onwards, self.log)
        tellers = [asyncio.create_task(self._tell(*queue)) for queue in self.queues]
        try:
            await run(self.inputs, route, stopping, self.echoes)
        finally:
            for teller in tellers:
                teller.cancel()
            if self.sink is not None:
                await self.sink.close()
        self._denied(route)
        return self._ended(status)

    def _denied(self, route: Route) -> None:
        """Says so where the rules let nothing through."""
        counts = [
            route.counts,
            *(s.read.counts for s, _ in self.inputs if isinstance(s, FileInput) and s.ruled),
        ]
        requests = sum(c.requests for c in counts)
        if requests and requests == sum(c.denied_requests for c in counts):
            self.log(0, f"the rules denied all {requests:,} requests: nothing was put out")

    def _ended(self, status: int) -> int:
        lost = 0
        for output, limiter in self.outputs:
            if output.lost:
                lost += output.lost
                self.log(0, f"{output.name}: {output.lost:,} messages were lost")
            if limiter is not None:
                self.log(1, f"{output.name}: {limiter.dropped:,} messages were beyond the limit")
        return status or (2 if lost else 0)

    async def _tell(self, name: str, every_s: float, output: Any) -> None:
        """GoReplay's line about a queue."""
        say("", f"{name}:latest,mean,max,count,count/second,gcount")
        while True:
            await asyncio.sleep(every_s)
            latest, mean, longest, count = output.queue.take()
            say(
                "",
                f"{name}:{latest},{mean},{longest},{count},{int(count / every_s)},{len(asyncio.all_tasks())}",
            )


def _speed(limit: str | None) -> tuple[float, Limiter | None]:
    """A percentage is a speed for files and Kafka, a number a limit."""
    if limit is None:
        return 1.0, None
    percent = parse_percent(limit)
    if percent is None:
        return 1.0, Limiter(limit)
    if percent <= 0:
        raise UsageError(f"gor: |{limit}: a speed is above 0%")
    return percent / 100, None


def _split(address: str) -> tuple[str, tuple[int, ...]]:
    """Host or interface, and ports. Raises UsageError."""
    if re.search(r"\.(?:pcap|pcapng|cap)(?:\.gz|\.zst)?\Z", address):
        return address, ()
    host, colon, listed = address.rpartition(":")
    if not colon:
        raise UsageError(f"gor: --input-raw {address}: write [HOST]:PORT[,PORT]")
    try:
        ports = tuple(int(p) for p in listed.split(",") if p.strip())
    except ValueError:
        raise UsageError(f"gor: --input-raw {address}: {listed!r} are no ports") from None
    if any(not 0 <= p <= 65_535 for p in ports):
        raise UsageError(f"gor: --input-raw {address}: ports are 1 to 65535")
    return host.strip("[]"), tuple(p for p in ports if p)


def _dry_run(flags: dict[str, Any]) -> int:
    from replaykit.goreplay.inputs.file import dry_run

    for text in flags["input_file"]:
        pattern, limit = split_limit(text)
        speed, _ = _speed(limit)
        wait = flags["input_file_max_wait"] or None
        emit(dry_run(pattern, speed, wait, max(flags["input_file_read_depth"], 0)))
    return 0


def _file_server(address: str) -> int:
    """GoReplay's little server of the current directory, to try things with."""
    import http.server

    from replaykit.goreplay.inputs.tcp import listen_address

    host, port = listen_address(address)
    with http.server.ThreadingHTTPServer((host or "", port), http.server.SimpleHTTPRequestHandler) as server:
        say(f"serving {os.getcwd()} on {address}")
        server.serve_forever()
    return 0


def _standard_files() -> None:
    """Where one of the three is closed, nothing else may get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            if number:
                setattr(sys, ("stdout", "stderr")[number - 1], open(number, "w", closefd=False))  # noqa: SIM115


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 after a signal, 2 wrong use or input, or messages lost."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _standard_files()
    try:
        if not arguments or arguments[0].lstrip("-") in ("h", "help"):
            emit(goflags.usage() + "\n")
            return 0 if arguments else 2
        if arguments[0] in ("-version", "--version"):
            emit(f"gor by replaykit {__version__}\n")
            return 0
        if arguments[0] == "file-server" and len(arguments) == 2:
            return _file_server(arguments[1])
        flags = goflags.parse(arguments)

        def log(level: int, text: str) -> None:
            if level <= flags["verbose"]:
                say(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {text}")

        log(0, f"gor by replaykit {__version__}, PID {os.getpid()}")
        if flags["input_file_dry_run"] and flags["input_file"]:
            return _dry_run(flags)

        from replaykit.cli.event_loop import event_loops

        with event_loops() as runner:
            return runner.run(_run(flags, log))
    except UsageError as error:
        say(f"{'' if str(error).startswith('gor: ') else 'gor: '}{error}")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 1


async def _run(flags: dict[str, Any], log: Log) -> int:
    return await Gor(flags, log).run()


if __name__ == "__main__":
    sys.exit(main())
