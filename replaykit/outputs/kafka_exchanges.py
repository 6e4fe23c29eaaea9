"""Exchanges into a Kafka topic, by way of a spool on disk (the extra `kafka`).

Owns the form: a message holds up to 500 exchanges of one host, a JSON object a line, each with its `id`,
which depends on the exchange alone, and `observer`. What is sent twice can so be counted once by whoever
reads. Where a topic for increments is named, it has a line for what each exchange in flight moved in a slice
of time, and exchanges that are told there are marked with `in_increments`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.errors import UsageError
from replaykit.outputs import ecs
from replaykit.outputs.delivery.drain import Drain, Later
from replaykit.outputs.elastic import to_record
from replaykit.outputs.jsonlines import encode
from replaykit.outputs.kafka import Broker, module, options
from replaykit.outputs.output import Output, Rotation
from replaykit.outputs.settings import secret, state_folder
from replaykit.records.increment import BEGUN, ENDED, in_increments
from replaykit.records.message import Messages
from replaykit.units import parse_size

TOPIC = "replaykit-exchanges"
ROWS = 4096
MESSAGE_ROWS = 500


def lines(batch: pa.RecordBatch, observer: str) -> list[str]:
    """The exchanges or increments of a batch as JSON with the columns' names; times as ns since the epoch."""
    ids = ecs.identities(batch, *(name for name in (ENDED, BEGUN) if name in batch.schema.names))
    tree: dict[str, Any] = {"id": pa.array(ids), "observer": observer}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        tree[name] = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    return encode(tree).to_pylist()  # type: ignore[no-any-return]


class _Producer:
    """aiokafka's producer on a loop of its own: idempotent, and acknowledged by all replicas."""

    def __init__(self, broker: Broker, observer: str, increments: str) -> None:
        self._broker, self._observer, self._increments = broker, observer, increments
        self._module, self._options = module(), options(broker)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._producer: Any = None
        self.sent = 0
        self.refused = 0
        self.trouble: str | None = None

    def deliver(self, record: bytes) -> None:
        asyncio.run_coroutine_threadsafe(self._deliver(record), self._loop).result()

    async def _deliver(self, record: bytes) -> None:
        try:
            if self._producer is None:
                await self._start()
            with pa.ipc.open_stream(record) as stream:
                for batch in stream:
                    made = lines(batch, self._observer)
                    topic = self._increments if BEGUN in batch.schema.names else self._broker.topic
                    under_way = [
                        await self._producer.send(
                            topic,
                            "\n".join(made[i : i + MESSAGE_ROWS]).encode(),
                            key=self._observer.encode(),
                        )
                        for i in range(0, len(made), MESSAGE_ROWS)
                    ]
                    for sent in under_way:
                        await sent
                    self.sent += len(made)
        except (self._module.errors.KafkaError, OSError, TimeoutError) as error:
            await self._end()
            raise Later(f"{type(error).__name__}: {error}") from None

    async def _start(self) -> None:
        producer = self._module.AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=20,
            compression_type="gzip",
            max_request_size=16 << 20,
            request_timeout_ms=15_000,
            **self._options,
        )
        try:
            await producer.start()
            if self._increments:  # a topic that is asked for is made: whoever subscribes to both finds it
                await producer.partitions_for(self._increments)
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

    async def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(5):
                    await producer.stop()
            except (self._module.errors.KafkaError, OSError, TimeoutError) as error:
                self.trouble = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


class KafkaExchanges:
    """`kafka://[user:password@]host:9092[,host…]/topic[?mechanism=SCRAM-SHA-512&ca=FILE&spool=DIR&spool-size=1GB]`.

    Credentials may also come from KAFKA_USERNAME and KAFKA_PASSWORD, or from files named by these with _FILE.
    Raises UsageError.
    """

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        parts = urlsplit(target)
        given = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        login, _, hosts = parts.netloc.rpartition("@")
        topic = parts.path.strip("/") or TOPIC
        shown = f"kafka://{hosts}"
        unknown = set(given) - {
            "mechanism",
            "ca",
            "cert",
            "key",
            "spool",
            "spool-size",
            "observer",
            "increments",
        }
        increments = given.get("increments", "")
        if increments == topic:
            raise UsageError(f"{shown}: increments={topic}: exchanges go there; name another topic")
        if not hosts or unknown or "/" in topic:
            reason = (
                f"there is no option {sorted(unknown)[0]!r}" if unknown else "write kafka://HOST:9092/TOPIC"
            )
            raise UsageError(f"{shown}: {reason}")
        user, _, password = login.partition(":")
        user, password = (
            unquote(user) or secret("KAFKA_USERNAME") or "",
            unquote(password) or secret("KAFKA_PASSWORD") or "",
        )
        broker = Broker(
            hosts,
            topic,
            sasl=bool(user),
            mechanism=given.get("mechanism", ""),
            username=user,
            password=password,
            ca=given.get("ca", ""),
            certificate=given.get("cert", ""),
            key=given.get("key", ""),
        )
        observer = given.get("observer") or socket.gethostname()
        self.target = f"{shown}/{topic}"
        name = f"kafka-{hosts.replace(',', '-').replace(':', '-')}-{topic}"
        folder = Path(given.get("spool") or state_folder() / name)
        self._drain = Drain(
            folder,
            parse_size(given.get("spool-size", "1GB")),
            lambda: _Producer(broker, observer, increments),
        )

    def exchanges(self, batch: pa.RecordBatch) -> None:
        for begin in range(0, batch.num_rows, ROWS):
            part = batch.slice(begin, ROWS)
            self._drain.put(to_record(part), part.num_rows)

    def messages(self, messages: Messages) -> None:
        """The topic holds exchanges; messages go there with `gor --output-kafka-host`."""

    def flush(self) -> None:
        """What was taken is in the spool."""

    def close(self) -> None:
        """Raises UsageError if something was dropped, or is left in the spool."""
        self._drain.finish(self.target)


class KafkaIncrements(KafkaExchanges):
    """The same with `increments=TOPIC`: what exchanges in flight move goes there, as it moves."""

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        """Exchanges go to their topic, and to that of increments what is not in an exchange's row alone."""
        told = in_increments(exchanges, moved)
        self.exchanges(exchanges.append_column(pa.field("in_increments", pa.bool_()), told))
        self.exchanges(moved.filter(pc.is_valid(moved.column(BEGUN))))


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `kafka://`."""
    if not target.startswith("kafka://"):
        return None
    telling = parse_qs(urlsplit(target).query).get("increments")
    return (KafkaIncrements if telling else KafkaExchanges)(target, rotation)
