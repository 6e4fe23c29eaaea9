"""The whole fleet's exchanges from Kafka into tables: exchanges, and statistics by minute. Batch or
streaming.

    spark-submit --jars spark-sql-kafka-0-10_2.13.jar,... attribution.py --brokers HOST:9092 --to DIR
    spark-submit ... attribution.py --brokers HOST:9092 --to s3a://traffic/fleet --stream --checkpoint DIR

Reads what agents send with `--to kafka://HOST:9092/TOPIC`: messages of JSON lines, each exchange with its
`id`. Writes DIR/exchanges (date=.../hour=...; the columns of an exchange and `observer`; times as int64 ns
since the epoch, since Spark knows no nanoseconds) and DIR/minutes (date=...), as Parquet with zstd.
`replaykit report DIR/exchanges` reads the first as it is.

With `--increments TOPIC` (agents: `--to 'kafka://HOST:9092/TOPIC?increments=TOPIC2'`) the minutes hold bytes
in the minute in which they moved, and what is in flight; without, an exchange is in the minute in which it
began.

Every exchange counts once: ids that come again are dropped; and a streaming batch that is written again after
a crash replaces what it wrote before, since it has partitions of its own (batch=N).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from replaykit.attribution.minutes import KEYS, SLOW_NS, SUMS
from replaykit.records.exchange import SCHEMA

TYPES = {"bool": T.BooleanType(), "double": T.DoubleType(), "string": T.StringType()}
HOUR_NS, MINUTE_NS = 3_600_000_000_000, 60_000_000_000


def schema() -> T.StructType:
    """Of a line: integers and times as longs."""
    fields = [T.StructField("id", T.StringType()), T.StructField("observer", T.StringType())]
    fields += [T.StructField(f.name, TYPES.get(str(f.type), T.LongType())) for f in SCHEMA]
    fields += [T.StructField(name, T.BooleanType()) for name in ("ended", "in_increments")]
    return T.StructType(fields)


def exchanges(messages: DataFrame) -> DataFrame:
    """A row an exchange or increment, of Kafka's messages; `arrived` is when Kafka took it, `ended` null for
    an exchange.
    """
    lines = messages.select(
        F.col("timestamp").alias("arrived"),
        F.explode(F.split(F.col("value").cast("string"), "\n")).alias("line"),
    )
    rows = lines.select("arrived", F.from_json("line", schema()).alias("row")).select("arrived", "row.*")
    at = F.coalesce("time", "response_time", F.lit(0).cast("long"))
    when = F.timestamp_seconds(F.expr(f"coalesce(time, response_time, 0) div {HOUR_NS} * 3600"))
    return (
        rows.where(F.col("id").isNotNull())
        .withColumn("minute", (at - F.pmod(at, F.lit(MINUTE_NS))))
        .withColumn("date", F.date_format(when, "yyyy-MM-dd"))
        .withColumn("hour", F.date_format(when, "HH"))
    )


def minutes(rows: DataFrame, *more: str) -> DataFrame:
    """Sums by minute, endpoint, host, method and status, as `replaykit.attribution.minutes` makes them."""
    long = F.coalesce("duration_ns", F.lit(0)) > SLOW_NS
    ended = F.coalesce("ended", F.lit(True))
    special = {
        "exchanges": ended.cast("long"),
        "incomplete": (ended & ~F.col("complete")).cast("long"),
        "durations": F.col("duration_ns").isNotNull().cast("long"),
        "slow": long.cast("long"),
    }
    values = {name: special[name] if name in special else F.col(name) for name in SUMS}
    sums = [
        F.sum(F.coalesce(value, F.lit(0)).cast("double") * F.col("weight")).alias(name)
        for name, value in values.items()
    ]
    return rows.groupBy("date", *more, *KEYS).agg(*sums, F.max("duration_ns").alias("duration_max_ns"))


def write(rows: DataFrame, to: str, increments: bool, batch: int | None = None) -> None:
    """Both tables; a batch replaces only its own partitions. increments: they are among the rows."""
    rows = rows.drop("arrived")
    partitions: list[str] = []
    if batch is not None:
        rows, partitions = rows.withColumn("batch", F.lit(batch)), ["batch"]
    rows = rows.persist()
    try:
        whole = rows.where(F.col("ended").isNull()).drop("minute", "ended", "in_increments")
        moved = rows.where(~F.coalesce("in_increments", F.lit(False))) if increments else rows
        for name, table, by in (
            ("exchanges", whole, ["date", "hour", *partitions]),
            ("minutes", minutes(moved, *partitions), ["date", *partitions]),
        ):
            writer = (
                table.repartition(*by).write.mode("overwrite").option("compression", "zstd").partitionBy(*by)
            )
            if batch is not None:
                writer = writer.option("partitionOverwriteMode", "dynamic")
            writer.parquet(f"{to.rstrip('/')}/{name}")
    finally:
        rows.unpersist()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--brokers", required=True, metavar="HOST:9092")
    parser.add_argument("--topic", default="replaykit-exchanges")
    parser.add_argument(
        "--increments",
        metavar="TOPIC",
        help="where agents tell what is in flight, for minutes that hold what moved in them",
    )
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="a path that Spark can write, such as s3a://bucket/fleet"
    )
    parser.add_argument(
        "--stream", action="store_true", help="goes on as exchanges arrive, until it is stopped"
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="with --stream: what is there now, then ends; the next run goes on from there",
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="where a stream keeps how far it came")
    parser.add_argument("--every", default="10 seconds", help="between batches of a stream")
    parser.add_argument(
        "--repeats", default="1 hour", help="so long after an exchange its repeats are known (stream)"
    )
    parser.add_argument(
        "--kafka-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="such as security.protocol=SASL_SSL",
    )
    args = parser.parse_args(arguments)
    if args.stream and not args.checkpoint:
        parser.error("--stream needs --checkpoint DIR")
    spark = (
        SparkSession.builder.appName("replaykit-attribution")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    options: dict[str, Any] = {
        "kafka.bootstrap.servers": args.brokers,
        "subscribe": f"{args.topic},{args.increments}" if args.increments else args.topic,
        "startingOffsets": "earliest",
    }
    options |= {f"kafka.{name}": value for name, _, value in (o.partition("=") for o in args.kafka_option)}
    if args.stream:
        messages = spark.readStream.format("kafka").options(**options).load()
        rows = (
            exchanges(messages).withWatermark("arrived", args.repeats).dropDuplicatesWithinWatermark(["id"])
        )
        stream = rows.writeStream.option("checkpointLocation", args.checkpoint).foreachBatch(
            lambda rows, batch: write(rows, args.to, bool(args.increments), batch)
        )
        stream = stream.trigger(availableNow=True) if args.once else stream.trigger(processingTime=args.every)
        stream.start().awaitTermination()
    else:
        messages = spark.read.format("kafka").options(**options).load()
        write(exchanges(messages).dropDuplicates(["id"]), args.to, bool(args.increments))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
