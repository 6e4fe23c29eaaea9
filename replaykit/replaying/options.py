"""A replay as people ask for it: in a command line, in a call."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Options, Real, Whole


class ReplayOptions(Options):
    """Names and values are those of `replaykit replay`; times as people write them, such as `5s`.

    loop: 0 goes on until it is stopped. connections: None: as many as fit the pace.
    """

    panel: ClassVar[str] = "connections"

    files: Annotated[
        Texts,
        Option(
            ".gor files (gzip too, globs), captures, s3://BUCKET/PREFIX or -", "FILE", argument=True, panel=""
        ),
    ]
    to: Annotated[Text, Option("http://HOST[:PORT][/PREFIX], or https", "URL", panel="")]
    port: Annotated[
        Text | None, Option("of captures: only connections to these ports", "PORTS", panel="")
    ] = None
    tls_keys: Annotated[Text | None, Option("of captures: key log to read TLS with", "FILE", panel="")] = None
    speed: Annotated[Text, Option("1x as recorded (default), 2x, 50%, or max", "FACTOR", panel="pace")] = "1x"
    rate: Annotated[Real | None, Option("so many requests a second, evenly", "N", panel="pace")] = None
    ramp: Annotated[Text | None, Option("a rate that changes: 10-1000/60s", "FROM-TO/TIME", panel="pace")] = (
        None
    )
    max_wait: Annotated[Text | None, Option("no pause between requests is longer", "TIME", panel="pace")] = (
        None
    )
    loop: Annotated[Whole, Option("so many times; without N until stopped", "N", panel="pace", bare="0")] = 1
    limit: Annotated[Whole | None, Option("ends after so many requests", "N", panel="pace")] = None
    duration: Annotated[Text | None, Option("ends after so long", "TIME", panel="pace")] = None
    read_depth: Annotated[
        Whole, Option("records sorted by time at once (default 100)", "N", panel="pace")
    ] = 100
    connections: Annotated[
        Whole | None, Option("at most so many at a time (default 32 with --speed max, else 10000)", "N")
    ] = None
    sessions: Annotated[
        bool | None,
        Option(
            "requests of one recorded connection share one, in order (default at a recorded pace); or any"
            " connection that is free",
            only=("--sessions/--pooled",),
        ),
    ] = None
    http2: Annotated[bool, Option("speaks HTTP/2 to the target")] = False
    timeout: Annotated[Text, Option("for a response (default 5s)", "TIME")] = "5s"
    connect_timeout: Annotated[Text, Option("for a connection (default 5s)", "TIME")] = "5s"
    retries: Annotated[Whole, Option("of requests that failed and are idempotent (default 0)", "N")] = 0
    redirects: Annotated[Whole, Option("followed on the same target (default 0)", "N")] = 0
    insecure: Annotated[bool, Option("does not verify the target's certificate")] = False
    ca: Annotated[Text | None, Option("CA certificate to verify the target with", "FILE")] = None
    keep_host: Annotated[
        bool, Option("keeps the recorded Host; else it is the target's", panel="requests")
    ] = False
    all_methods: Annotated[
        bool,
        Option(
            "POST and PATCH too; for a target that is not on this machine only idempotent methods are sent"
            " unless asked",
            panel="requests",
        ),
    ] = False
    compare: Annotated[
        bool, Option("exit status 1 if a response differs", panel="comparison with the recorded responses")
    ] = False
    compare_header: Annotated[
        Texts, Option("compares this header too", "NAME", panel="comparison with the recorded responses")
    ] = ()
    body: Annotated[
        Literal["exact", "json", "none"],
        Option("how bodies are compared", panel="comparison with the recorded responses"),
    ] = "exact"
    ignore: Annotated[
        Texts,
        Option(
            "a path in JSON bodies that may differ: data.*.id",
            "PATH",
            panel="comparison with the recorded responses",
        ),
    ] = ()
    endpoints: Annotated[
        Texts,
        Option(
            "endpoint patterns such as /users/{id}, one a line, or an OpenAPI file", "FILE", panel="requests"
        ),
    ] = ()
