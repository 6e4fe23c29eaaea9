"""Messages into a Kafka topic, as GoReplay's text or JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from replaykit.errors import UsageError
from replaykit.goreplay.pipeline import Log
from replaykit.outputs.kafka import Broker, module, options, to_json
from replaykit.records.message import Messages

_UNDER_WAY = 10_000


class KafkaOutput:
    """`lost`: messages that the broker did not take."""

    def __init__(self, broker: Broker, log: Log) -> None:
        self.name = f"kafka {broker.hosts}/{broker.topic}"
        self.lost = 0
        self._broker, self._log = broker, log
        self._module, self._options = module(), options(broker)
        self._producer: Any = None
        self._under_way: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Raises UsageError where no broker answers."""
        from aiokafka.errors import KafkaError

        self._producer = self._module.AIOKafkaProducer(
            acks=1, linger_ms=50, compression_type="gzip", max_request_size=64 << 20, **self._options
        )
        try:
            await self._producer.start()
        except (KafkaError, OSError) as error:
            await self._producer.stop()
            raise UsageError(f"{self.name}: {error}") from None

    async def write(self, messages: Messages) -> None:
        if self._producer is None:
            await self.start()
        starts = messages.index["record"].tolist()
        ends = messages.index["end"].tolist()
        if self._broker.json:
            values = [to_json(m) for m in messages]
        else:
            values = [bytes(messages.gor[a:b]) for a, b in zip(starts, ends, strict=True)]
        for value in values:
            try:
                sent = await self._producer.send(self._broker.topic, value)
            except self._module.errors.KafkaError as error:
                self._lose(error)
                continue
            self._under_way.add(sent)
            sent.add_done_callback(self._sent)
        while len(self._under_way) > _UNDER_WAY:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def _sent(self, sent: asyncio.Future[Any]) -> None:
        self._under_way.discard(sent)
        error = None if sent.cancelled() else sent.exception()
        if error is not None or sent.cancelled():
            self._lose(error)

    def _lose(self, error: BaseException | None) -> None:
        self.lost += 1
        if self.lost == 1:
            self._log(0, f"{self.name}: {error}; messages are lost, and counted")

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.flush()
            await self._producer.stop()
