"""How a `gor` command line is read, and that every flag of GoReplay's is there and described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replaykit.cli.gor import main
from replaykit.cli.rewrites import absent_group
from replaykit.errors import UsageError
from replaykit.goreplay import flags as goflags
from tests.target import OK, Rec, get, gor, paths, run_gor, target

ROOT = Path(__file__).parents[2]

# Every flag that `gor --help` of GoReplay 2.0.0 lists.
GOREPLAY = [
    "copy-buffer-size",
    "cpuprofile",
    "exit-after",
    "http-allow-header",
    "http-allow-method",
    "http-allow-url",
    "http-basic-auth-filter",
    "http-disallow-header",
    "http-disallow-url",
    "http-header-limiter",
    "http-original-host",
    "http-param-limiter",
    "http-pprof",
    "http-rewrite-header",
    "http-rewrite-url",
    "http-set-header",
    "http-set-param",
    "input-dummy",
    "input-file",
    "input-file-dry-run",
    "input-file-loop",
    "input-file-max-wait",
    "input-file-read-depth",
    "input-kafka-host",
    "input-kafka-json-format",
    "input-kafka-mechanism",
    "input-kafka-offset",
    "input-kafka-password",
    "input-kafka-topic",
    "input-kafka-use-sasl",
    "input-kafka-username",
    "input-raw",
    "input-raw-allow-incomplete",
    "input-raw-bpf-filter",
    "input-raw-buffer-size",
    "input-raw-buffer-timeout",
    "input-raw-engine",
    "input-raw-expire",
    "input-raw-ignore-interface",
    "input-raw-monitor",
    "input-raw-override-snaplen",
    "input-raw-promisc",
    "input-raw-protocol",
    "input-raw-realip-header",
    "input-raw-stats",
    "input-raw-timestamp-type",
    "input-raw-track-response",
    "input-raw-vlan",
    "input-raw-vlan-vid",
    "input-raw-vxlan-port",
    "input-raw-vxlan-vni",
    "input-tcp",
    "input-tcp-certificate",
    "input-tcp-certificate-key",
    "input-tcp-secure",
    "kafka-tls-ca-cert",
    "kafka-tls-client-cert",
    "kafka-tls-client-key",
    "memprofile",
    "middleware",
    "output-binary",
    "output-binary-debug",
    "output-binary-timeout",
    "output-binary-track-response",
    "output-binary-workers",
    "output-file",
    "output-file-append",
    "output-file-buffer",
    "output-file-flush-interval",
    "output-file-max-size-limit",
    "output-file-queue-limit",
    "output-file-size-limit",
    "output-http",
    "output-http-elasticsearch",
    "output-http-queue-len",
    "output-http-redirects",
    "output-http-response-buffer",
    "output-http-skip-verify",
    "output-http-stats",
    "output-http-stats-ms",
    "output-http-timeout",
    "output-http-track-response",
    "output-http-worker-timeout",
    "output-http-workers",
    "output-http-workers-min",
    "output-kafka-host",
    "output-kafka-json-format",
    "output-kafka-mechanism",
    "output-kafka-password",
    "output-kafka-topic",
    "output-kafka-use-sasl",
    "output-kafka-username",
    "output-null",
    "output-stdout",
    "output-tcp",
    "output-tcp-response-buffer",
    "output-tcp-secure",
    "output-tcp-skip-verify",
    "output-tcp-stats",
    "output-tcp-sticky",
    "output-tcp-workers",
    "output-ws",
    "output-ws-skip-verify",
    "output-ws-stats",
    "output-ws-sticky",
    "output-ws-workers",
    "prettify-http",
    "recognize-tcp-sessions",
    "split-output",
    "stats",
    "verbose",
]


def test_every_flag_is_there_and_in_the_table_with_a_test_that_uses_it() -> None:
    assert set(GOREPLAY) <= set(goflags.BY_NAME)
    page = (ROOT / "docs" / "gor.md").read_text()
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \|.*\| (.*?) \|$", page, re.MULTILINE))
    assert set(rows) == set(goflags.BY_NAME)
    for name, tests in rows.items():
        for path in re.findall(r"`(tests/[a-z_/0-9]+\.py)`", tests):
            assert f"--{name}" in (ROOT / path).read_text() or f'"{name}"' in (ROOT / path).read_text(), (
                name,
                path,
            )
        assert "tests/" in tests, name


def test_dashes_signs_and_repetition() -> None:
    found = goflags.parse(
        [
            "-input-raw",
            ":80",
            "--input-raw=:81",
            "-output-null",
            "--stats=false",
            "-verbose=2",
            "--output-kafka-use-sasl",
            "true",
            "--input-raw-vxlan-vni",
            "-2",
            "--exit-after=1m30s",
        ]
    )
    assert found["input_raw"] == [":80", ":81"] and found["output_null"] is True and found["stats"] is False
    assert found["verbose"] == 2 and found["output_kafka_use_sasl"] is True
    assert found["input_raw_vxlan_vni"] == [-2] and found["exit_after"] == 90


def test_sizes() -> None:
    cases = {
        "10mb": 10 << 20,
        "10MB": 10 << 20,
        "64kb": 64 << 10,
        "4096": 4096,
        "0x10": 16,
        "0b101": 5,
        "010": 8,
        "1gb": 1 << 30,
        "2tb": 2 << 40,
        "1_000": 1000,
    }
    assert {text: goflags.size(text) for text in cases} == cases
    for bad in ("", "10 mb", "mb", "1.5mb", "10m"):
        with pytest.raises(ValueError, match="write"):
            goflags.size(bad)


def test_durations() -> None:
    cases = {"2s": 2, "300ms": 0.3, "1h2m3s": 3723, "0": 0, "1.5h": 5400, "-1s": -1}
    assert {text: goflags.duration(text) for text in cases} == pytest.approx(cases)
    for bad in ("2", "s", "1d", "2 s"):
        with pytest.raises(ValueError, match="write"):
            goflags.duration(bad)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input-rwa", ":80"], "no flag --input-rwa"),
        (["--input-raw"], "needs a value"),
        ([":80"], "belongs to no flag"),
        (["--verbose", "much"], "write a number"),
        (["--copy-buffer-size", "big"], "10mb"),
        (["--exit-after", "soon"], "1m30s"),
        (["--input-raw-probability", "2"], "up to 1"),
        (["--http-pprof", ":8181"], "not here"),
        (["--cpuprofile", "f"], "not here"),
        (["--memprofile", "f"], "not here"),
        (["--input-raw-monitor"], "not here"),
        (["--output-null=maybe"], "true or false"),
    ],
)
def test_wrong_flags_get_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        goflags.parse(arguments)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input-dummy", "x"], "at least one input and one output"),
        (["--output-null"], "at least one input and one output"),
        (["--input-file", "/nowhere/a.gor", "--output-null"], "no such file"),
        (["--input-dummy", "x|much", "--output-null"], "write a share"),
        (["--input-dummy", "", "--output-http", "ftp://h"], "is no target"),
        (["--input-dummy", "", "--output-tcp", "nowhere"], "HOST:PORT"),
        (["--input-dummy", "", "--output-ws", "http://h"], "ws://"),
        (["--input-dummy", "", "--output-null", "--http-allow-url", "("], "regular expression"),
        (["--input-dummy", "", "--output-null", "--http-set-header", "x"], "--http-set-header"),
        (["--input-dummy", "", "--output-null", "--http-rewrite-url", "x"], "--http-rewrite-url"),
        (["--input-dummy", "", "--output-null", "--http-rewrite-header", "a: b"], "--http-rewrite-header"),
        (["--input-dummy", "", "--output-null", "--http-header-limiter", "a:b"], "--http-header-limiter"),
        (["--input-dummy", "", "--output-null", "--http-param-limiter", "a"], "--http-param-limiter"),
        (["--input-dummy", "", "--output-null", "--http-set-param", "a"], "--http-set-param"),
        (["--input-dummy", "", "--output-null", "--middleware", "/nowhere/m"], "no such file"),
        (["--input-dummy", "", "--output-null", "--middleware", "py://nowhere"], "no such entry point"),
        (["--input-raw", "k8s://ns/pod:80", "--output-null"], "pods"),
        (["--input-raw", "80", "--output-null"], "[HOST]:PORT"),
        (["--input-raw", ":80", "--output-null", "--input-raw-engine", "magic"], "there are libpcap"),
        (["--input-raw", ":80", "--output-null", "--input-raw-protocol", "smtp"], "there are http"),
        (["--input-raw", ":80", "--output-null", "--input-raw-timestamp-type", "PCAP_TSTAMP_ADAPTER"], "there are PCAP"),  # noqa: E501
        (["--input-tcp", "x", "--output-null"], "address to listen on"),
        (["--input-tcp", ":0", "--input-tcp-secure", "--output-null"], "certificate"),
        (["--input-dummy", "", "--output-http", "h", "--output-http-elasticsearch", "h:9200"], "index_name"),
    ],
)  # fmt: skip
def test_wrong_values_get_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and len(lines) == 2, lines


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [f.name for f in goflags.FLAGS if f.not_here is None and f"--{f.name} " not in out] == []


def test_a_replacement_that_names_a_group_the_pattern_lacks() -> None:
    for rule, group in ((r"/v1/(\w+):/v2/$1tc_x", "1tc_x"), (r"/v1:/v2/$1", "1"), (r"(?<a>x):${b}", "b")):
        done = run_gor("--input-dummy", "x", "--output-null", "--http-rewrite-url", rule)
        assert done.returncode == 2 and f"no group '{group}'".encode() in done.stderr, done.stderr
        assert done.stderr.count(b"Traceback") == 0
    assert absent_group(r"(\w+)(?P<b>x)(?<c>y)(?<=y)", b"$1 ${2}z $b ${c} $$x $0") is None


def test_what_the_rules_denied_is_said_where_that_is_all(tmp_path: Path) -> None:
    name = tmp_path / "a.gor"
    name.write_bytes(
        gor([r for n in range(40) for r in (Rec(get(f"/api/{n}"), n, session=n), Rec(OK, n, 2))])
    )
    python = ["--middleware", "cat"]
    with target() as there:
        for more in ([], python):
            flags = ["--input-file", f"{name}|1000%", "--output-http", there.url, *more, "--http-allow-url"]
            none, some = run_gor(*flags, "/nothing"), run_gor(*flags, "/api/1$")
            assert b"the rules denied all 40 requests" in none.stderr and b"denied" not in some.stderr
    assert paths(there.payloads) == ["/api/1", "/api/1"]


def test_a_target_that_is_no_url(tmp_path: Path) -> None:
    done = run_gor("--input-dummy", "", "--output-http", "not-a-url")
    assert done.returncode == 2 and b"--output-http not-a-url: write http://" in done.stderr
    assert done.stderr.count(b"\n") == 2  # the first says who it is


def test_version() -> None:
    for flag in ("--version", "-version"):
        done = run_gor(flag)
        assert done.returncode == 0 and done.stdout.startswith(b"gor by replaykit ")
