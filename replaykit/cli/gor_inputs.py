"""The inputs that `gor`'s flags ask for, opened."""

from __future__ import annotations

import re
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

from replaykit.engine.options import Options
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.goreplay.inputs.file import FileInput
from replaykit.goreplay.kafka_flags import broker
from replaykit.goreplay.limiter import Limiter, limited, speed, split_limit
from replaykit.goreplay.pipeline import Input, Log
from replaykit.replaying.own import OwnConnections

if TYPE_CHECKING:
    from replaykit.capturing.places import Place
    from replaykit.goreplay.inputs.raw import Heard

_HOST_STAMPS = ("", "PCAP_TSTAMP_HOST", "PCAP_TSTAMP_HOST_LOWPREC", "PCAP_TSTAMP_HOST_HIPREC")
_CAPTURE_FILE = r"\.(?:pcap|pcapng|cap)(?:\.gz|\.zst)?\Z"


class Inputs:
    """f: the flags. own: connections whose messages are left out, because they are ours. heard: is given the
    exchanges of what is captured.
    """

    def __init__(
        self, f: SimpleNamespace, log: Log, rules: Rules, own: OwnConnections, heard: Heard | None
    ) -> None:
        self.f, self.log, self.rules, self.own, self._heard = f, log, rules, own, heard
        self.opened: list[tuple[Input, Limiter | None]] = []

    def open(self) -> None:
        """Raises UsageError."""
        from replaykit.goreplay.inputs.dummy import DummyInput
        from replaykit.goreplay.inputs.http import HttpInput
        from replaykit.goreplay.inputs.tcp import TcpInput, server_context

        f = self.f
        for _, limiter in limited(f.input_dummy):
            self.opened.append((DummyInput(), limiter))
        for address, limiter in limited(f.input_raw):
            self.opened.append((self._raw(address), limiter))
        for address, limiter in limited(f.input_tcp):
            tls = None
            if f.input_tcp_secure:
                tls = server_context(f.input_tcp_certificate, f.input_tcp_certificate_key)
            self.opened.append((TcpInput(address, self.log, tls), limiter))
        for text in f.input_file:
            pattern, limit = split_limit(text)
            pace, limiter = speed(limit)
            source = FileInput(
                pattern,
                self.log,
                pace,
                f.input_file_loop,
                max(f.input_file_read_depth, 0),
                f.input_file_max_wait or None,
                self.rules,
                ruled=not f.middleware,
            )
            self.opened.append((source, limiter))
        for address, limiter in limited(f.input_http):
            self.opened.append((HttpInput(address), limiter))
        if f.input_kafka_host and f.input_kafka_topic:
            from replaykit.goreplay.inputs.kafka import KafkaInput

            text, limit = split_limit(f.input_kafka_offset)
            pace, limiter = speed(limit)
            if not re.fullmatch(r"-?[0-9]+", text):
                raise UsageError(f"gor: --input-kafka-offset {text}: -1 is the newest, -2 the oldest")
            self.opened.append((KafkaInput(broker(vars(f), "input"), int(text), pace, self.log), limiter))

    def _raw(self, address: str) -> Input:
        from replaykit.capturing.live import Settings
        from replaykit.goreplay.inputs.raw import CaptureFileInput, RawInput

        f = self.f
        self._check_raw(address)
        host, ports = _split(address)
        options = self._reading(ports)
        if f.input_raw_engine == "pcap_file" or re.search(_CAPTURE_FILE, host):
            return CaptureFileInput(host, options, self.log, heard=self._heard)
        settings = Settings(
            self._places(host, ports),
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
        return RawInput(settings, options, self.log, f.input_raw_stats, self.own, self._heard)

    def _check_raw(self, address: str) -> None:
        """Whether we have what is asked for by name. Raises UsageError."""
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

    def _reading(self, ports: tuple[int, ...]) -> Options:
        """How the engine reads what is captured."""
        f = self.f
        return Options(
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

    def _places(self, host: str, ports: tuple[int, ...]) -> list[Place]:
        """Where to capture."""
        from replaykit.capturing.places import Place, parse_place

        f = self.f
        listed = ",".join(map(str, ports))
        if f.input_raw_engine == "vxlan":
            return [parse_place(f"vxlan://{host or '0.0.0.0'}:{f.input_raw_vxlan_port}/{listed}")]
        if f.input_raw_ignore_interface and host in ("", "any", "0.0.0.0", "::"):
            names = [n for _, n in socket.if_nameindex() if n not in f.input_raw_ignore_interface]
            return [Place(name, ports) for name in names]
        known = {"0.0.0.0": "", "::": "", "localhost": "127.0.0.1"}
        name = known.get(host, host)
        place = parse_place(f"{f'[{name}]' if ':' in name else name}:{listed or '1'}")
        return [Place(place.interface, ports, place.host)]


def _split(address: str) -> tuple[str, tuple[int, ...]]:
    """Host or interface, and ports. Raises UsageError."""
    if re.search(_CAPTURE_FILE, address):
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
