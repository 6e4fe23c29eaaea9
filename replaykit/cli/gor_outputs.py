"""The outputs that `gor`'s flags ask for, opened."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from replaykit.cli import rewrites
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.goreplay.kafka_flags import broker
from replaykit.goreplay.limiter import Limiter, limited
from replaykit.goreplay.pipeline import Echo, Log, Output
from replaykit.replaying.own import OwnConnections


class Outputs:
    """f: the flags. own: gets the connections that outputs make, so that they are left out."""

    def __init__(self, f: SimpleNamespace, log: Log, rules: Rules, own: OwnConnections) -> None:
        self.f, self.log, self.rules, self.own = f, log, rules, own
        self.opened: list[tuple[Output, Limiter | None]] = []
        self.echoes: list[Echo] = []
        self.queues: list[tuple[str, float, Any]] = []
        """Of those whose queue is told of: flag, how often in seconds, output."""
        self.sink: Any = None

    def open(self) -> None:
        """Raises UsageError."""
        from replaykit.goreplay.outputs.basic import NullOutput, StdoutOutput
        from replaykit.goreplay.outputs.binary import BinaryOutput, BinarySettings
        from replaykit.goreplay.outputs.file import FileOutput, FileSettings
        from replaykit.goreplay.outputs.tcp import TcpOutput, TcpSettings, WebSocketOutput

        f = self.f
        if f.output_stdout:
            self.opened.append((StdoutOutput(), None))
        if f.output_null:
            self.opened.append((NullOutput(), None))
        for address, limiter in limited(f.output_tcp):
            tcp = TcpSettings(
                f.output_tcp_workers, f.output_tcp_sticky, f.output_tcp_secure, not f.output_tcp_skip_verify
            )
            self._queued(
                TcpOutput(address, tcp, self.log, self.own), limiter, "output_tcp", f.output_tcp_stats, 5.0
            )
        for address, limiter in limited(f.output_ws):
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
        for path, limiter in limited(f.output_file):
            if path.startswith("s3://"):
                from replaykit.goreplay.outputs.s3 import S3Output

                self.opened.append((S3Output(path, files, f.output_file_buffer, self.log), limiter))
            else:
                self.opened.append((FileOutput(path, files, self.log), limiter))
        for url, limiter in limited(f.output_http):
            self._http(url, limiter)
        for address, limiter in limited(f.output_binary):
            binary = BinarySettings(
                f.output_binary_workers,
                f.output_binary_timeout or 5.0,
                f.output_tcp_response_buffer or 100 << 10,
                f.output_binary_track_response,
            )
            debug: Log = (lambda level, text: self.log(0, text)) if f.output_binary_debug else self.log
            output = BinaryOutput(address, binary, debug, self.own)
            self.opened.append((output, limiter))
            if f.output_binary_track_response:
                self.echoes.append(output)
        if f.output_kafka_host and f.output_kafka_topic:
            from replaykit.goreplay.outputs.kafka import KafkaOutput

            self.opened.append((KafkaOutput(broker(vars(f), "output"), self.log), None))

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
        self.opened.append((output, limiter))
        if told and self.f.stats:
            self.queues.append((name, max(every_s, 0.01), output))
