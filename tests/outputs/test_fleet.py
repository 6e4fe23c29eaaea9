"""Many hosts into Kafka, and Spark over all of them: the same answer as one machine gives, to the byte."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ci.servers import QUICK_JAVA, SERVERS, Kafka, Spark, free_port, spark
from replaykit.attribution.minutes import KEYS, MINUTE_NS, SUMS, add, by_minute
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.records.increment import movements
from samples.make import OUT
from tests.conftest import needs
from tests.mutate import write
from tests.outputs.conftest import capture, report, run
from tests.talk import Talk
from tests.target import OK, get, until

JOB = Path(__file__).parents[2] / "pipelines" / "spark" / "attribution.py"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    needs("spark", "java")
    with spark(tmp_path_factory.mktemp("spark")) as there:
        yield there


def command(cluster: Spark, broker: Kafka, topic: str, to: Path, *more: str) -> list[str]:
    jars = ",".join(map(str, sorted((SERVERS / "spark").glob("*.jar"))))
    return [
        str(Path(sys.executable).parent / "spark-submit"),
        "--master",
        cluster.url,
        "--jars",
        jars,
        "--conf",
        "spark.ui.enabled=false",
        "--conf",
        "spark.sql.shuffle.partitions=2",
        "--conf",
        "spark.driver.bindAddress=127.0.0.1",
        "--conf",
        "spark.driver.host=127.0.0.1",
        "--conf",
        "spark.executor.memory=768m",
        *(
            part
            for who in ("driver", "executor")
            for part in ("--conf", f"spark.{who}.extraJavaOptions={' '.join(QUICK_JAVA)}")
        ),
        str(JOB),
        "--brokers",
        broker.plain,
        "--topic",
        topic,
        "--increments",
        f"{topic}-increments",
        "--to",
        str(to),
        *more,
    ]


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}


def job(*arguments: Any) -> None:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=240, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]


def sent(broker: Kafka, topic: str, spool: Path, observer: str, *inputs: Path) -> None:
    done = run(
        "exchanges",
        *map(str, inputs),
        "--quiet",
        "--to",
        f"kafka://{broker.plain}/{topic}?spool={spool}&observer={observer}&increments={topic}-increments",
    )
    assert done.returncode == 0, done.stderr


def minute_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    keys = [table.column(n) for n in KEYS]
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in keys]
    columns += [table.column(n).cast(pa.float64()) for n in (*SUMS, "duration_max_ns")]
    return sorted(zip(*(c.to_pylist() for c in columns), strict=True), key=str)


def expected(*inputs: Path, folder: Path) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """What one machine says: its report, and what moved in each minute."""
    parquet = folder / "one.parquet"
    assert run("exchanges", *map(str, inputs), "--quiet", "--to", str(parquet)).returncode == 0
    return report(str(parquet)), minute_rows(add([by_minute(moved(path)) for path in inputs]))


def moved(path: Path) -> pa.RecordBatch:
    """All that moved in a capture file, by minute."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    engine = Engine(Options(slice_ns=MINUTE_NS))
    assert engine.feed_file(data, 0, len(data)) == len(data)
    engine.finish()
    return movements(engine.take_exchanges(), engine.take_increments() if engine.increments else None)


def long_download(path: Path) -> Path:
    """A pcap of one exchange whose response takes four minutes, pipelined before one that is over at once."""
    talk = Talk(sport=40_001, start=1_700_000_000_000_000_000).open()
    talk.client(get("/archive.tar") * 2).server(b"HTTP/1.1 200 OK\r\nContent-Length: 800000\r\n\r\n")
    for _ in range(4):
        talk.server(b"x" * 200_000)
        talk.start += MINUTE_NS
    path.write_bytes(write(talk.server(OK).close().packets))
    return path


def agrees(to: Path, wanted: tuple[dict[str, Any], list[tuple[Any, ...]]]) -> None:
    there = report(str(to / "exchanges"))
    assert (there["total"], there["rows"]) == (wanted[0]["total"], wanted[0]["rows"])
    parts = [pq.ParquetFile(f).read() for f in sorted((to / "minutes").glob("date=*/**/*.parquet"))]
    assert minute_rows(add(parts)) == wanted[1]


def test_batch(cluster: Spark, broker: Kafka, tmp_path: Path) -> None:
    """Two hosts, one of which sends everything twice, and the other something that takes minutes."""
    other = capture(tmp_path / "b.pcap", 300)
    long = long_download(tmp_path / "long.pcap")
    sent(broker, "batch", tmp_path / "a", "host-a", OUT)
    sent(broker, "batch", tmp_path / "a", "host-a", OUT)
    sent(broker, "batch", tmp_path / "b", "host-b", other, long)
    sent(broker, "batch", tmp_path / "b", "host-b", long)
    job(cluster, broker, "batch", tmp_path / "fleet")
    wanted = expected(OUT, other, long, folder=tmp_path)
    of_download = [row[KEYS.index("minute")] for row in wanted[1] if "/archive.tar" in row]
    assert len(set(of_download)) >= 4
    agrees(tmp_path / "fleet", wanted)


def test_stream_killed_and_started_again(cluster: Spark, broker: Kafka, tmp_path: Path) -> None:
    """Spark's master and worker amid the stream, which goes on by itself; then the job, amid a batch or
    before one.
    """
    inputs = [
        capture(tmp_path / f"{n}.pcap", 400, start=1_700_000_000_000_000_000 + n * 3_600_000_000_000)
        for n in range(4)
    ]
    to, checkpoint = tmp_path / "fleet", tmp_path / "checkpoint"
    more = ["--stream", "--checkpoint", str(checkpoint), "--every", "1 second"]
    sent(broker, "stream", tmp_path / "a", "host-a", inputs[0])
    with (tmp_path / "job.log").open("wb") as log:
        process = subprocess.Popen(
            command(cluster, broker, "stream", to, *more),
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
    try:

        def batches() -> int:
            assert process.poll() is None, (tmp_path / "job.log").read_text()[-3000:]
            return len([p for p in (checkpoint / "commits").glob("*") if p.name.isdigit()])

        until(lambda: bool(list(to.glob("exchanges/date=*/**/*.parquet"))), 150)
        sent(broker, "stream", tmp_path / "a", "host-a", inputs[1])
        cluster.kill()
        sent(broker, "stream", tmp_path / "b", "host-b", inputs[2])
        before = batches()
        cluster.start()
        until(lambda: batches() > before, 150)
        sent(broker, "stream", tmp_path / "b", "host-b", inputs[3])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
    sent(broker, "stream", tmp_path / "b", "host-b", inputs[2], inputs[3])
    job(cluster, broker, "stream", to, *more, "--once")
    agrees(to, expected(*inputs, folder=tmp_path))


def consumed(host: str, topic: str) -> list[str]:
    """The ids of all exchanges in a topic, in their order."""
    import asyncio
    import json

    from aiokafka import AIOKafkaConsumer

    async def read_all() -> list[str]:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=host, auto_offset_reset="earliest")
        await consumer.start()
        while not consumer.assignment():
            await asyncio.sleep(0.1)
        ends = await consumer.end_offsets(list(consumer.assignment()))
        found = []
        while any([await consumer.position(p) < end for p, end in ends.items()]):
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                found += [json.loads(line)["id"] for m in messages for line in m.value.split(b"\n")]
        await consumer.stop()
        return found

    return asyncio.run(read_all())


def test_wrong_use(tmp_path: Path) -> None:
    for target, said in (
        ("kafka://", "kafka://HOST"),
        ("kafka://h:1/a?colour=red", "colour"),
        ("kafka://h:1/a/b", "kafka://HOST"),
    ):
        done = run("exchanges", str(OUT), "--quiet", "--to", target)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    late = run(
        "exchanges",
        str(OUT),
        "--quiet",
        "--to",
        f"kafka://me:hidden@127.0.0.1:{free_port()}/t?spool={tmp_path}",
    )
    assert late.returncode == 2 and "hidden" not in late.stderr + late.stdout
    assert len(late.stderr.splitlines()) == 2, late.stderr  # that it is away, and what waits at the end
