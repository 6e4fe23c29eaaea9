"""A Kafka topic as input, every partition, at the recorded pace where it is read from its beginning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from replaykit.errors import UsageError
from replaykit.goreplay.pipeline import Log
from replaykit.outputs.kafka import Broker, from_json, from_text, module, options
from replaykit.records.message import Builder, Messages
from replaykit.replaying.clock import Clock
from replaykit.replaying.pace import Recorded


class KafkaInput:
    """offset: -1 the newest, -2 the oldest, or a number.

    speed: of the recorded pace; with -1 there is none.
    """

    ruled = False
    measured = False

    def __init__(self, broker: Broker, offset: int, speed: float, log: Log) -> None:
        if offset < -2:
            raise UsageError(f"--input-kafka-offset {offset}: -1 is the newest, -2 the oldest")
        self.name = f"kafka {broker.hosts}/{broker.topic}"
        self._broker, self._offset, self._log = broker, offset, log
        self._pace = None if offset == -1 else Recorded(speed)
        self._module, self._options = module(), options(broker)
        self._stopping = asyncio.Event()
        self.bad = 0

    def stop(self) -> None:
        self._stopping.set()

    async def batches(self) -> AsyncIterator[Messages]:
        kafka = self._module
        consumer = kafka.AIOKafkaConsumer(enable_auto_commit=False, **self._options)
        clock = Clock()
        try:
            await self._assign(consumer)
            begun = time.monotonic_ns()
            while not self._stopping.is_set():
                polled = await consumer.getmany(timeout_ms=200)
                found = [
                    from_json(r.value) if self._broker.json else from_text(r.value)
                    for records in polled.values()
                    for r in records
                ]
                bad = sum(m is None for m in found)
                if bad:
                    self.bad += bad
                    self._log(0, f"{self.name}: {bad} records are no messages")
                messages = sorted((m for m in found if m is not None), key=lambda m: m.time_ns)
                out = Builder()
                due = self._pace and self._pace.due([m.time_ns for m in messages])
                for i, message in enumerate(messages):
                    if due and begun + due[i] > time.monotonic_ns():
                        if len(out):
                            yield out.messages()
                            out = Builder()
                        while (now := time.monotonic_ns()) < begun + due[i] and not self._stopping.is_set():
                            await clock.until(min(begun + due[i], now + 100_000_000))
                    out.push(message)
                if len(out):
                    yield out.messages()
        finally:
            clock.close()
            await consumer.stop()

    async def _assign(self, consumer: object) -> None:
        from aiokafka.errors import KafkaError

        c, kafka = consumer, self._module
        try:
            await c.start()  # type: ignore[attr-defined]
            numbers: set[int] = set()
            for _ in range(50):
                await c._client.force_metadata_update()  # type: ignore[attr-defined]
                numbers = c._client.cluster.partitions_for_topic(self._broker.topic) or set()  # type: ignore[attr-defined]
                if numbers:
                    break
                c._client.add_topic(self._broker.topic)  # type: ignore[attr-defined]
                await asyncio.sleep(0.1)
            if not numbers:
                raise UsageError(f"{self.name}: there is no such topic")
            partitions = [kafka.TopicPartition(self._broker.topic, n) for n in sorted(numbers)]
            c.assign(partitions)  # type: ignore[attr-defined]
            if self._offset == -2:
                await c.seek_to_beginning(*partitions)  # type: ignore[attr-defined]
            elif self._offset == -1:
                await c.seek_to_end(*partitions)  # type: ignore[attr-defined]
            else:
                for partition in partitions:
                    c.seek(partition, self._offset)  # type: ignore[attr-defined]
        except (KafkaError, OSError) as error:
            raise UsageError(f"{self.name}: {error}") from None
