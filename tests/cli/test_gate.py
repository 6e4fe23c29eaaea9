"""The bandwidth gate and diff: limits, baselines, budgets, and every output; and CI's whole step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from ci.servers import nginx
from replaykit.attribution.gate import read_budgets
from replaykit.errors import UsageError
from tests.target import Rec, get, gor

ROOT = Path(__file__).parents[2]
REPLAYKIT = [sys.executable, "-m", "replaykit"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*REPLAYKIT, *arguments], capture_output=True, text=True, check=False)


def recording(path: Path, users: int = 10, size: int = 1000, files: int = 2) -> str:
    """`users` answers of `size` bytes, and `files` of 10,000."""

    def answer(length: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length

    made = [r for n in range(users) for r in (Rec(get(f"/users/{n}"), n), Rec(answer(size), n, 2))]
    made += [
        r for n in range(files) for r in (Rec(get("/files/big"), 90 + n), Rec(answer(10_000), 90 + n, 2))
    ]
    path.write_bytes(gor(made))
    return str(path)


def gate(*arguments: str) -> tuple[int, dict[str, object]]:
    done = run("gate", *arguments, "--format", "json", "--quiet")
    return done.returncode, json.loads(done.stdout)


def test_limits(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor")
    assert run("gate", name, "--threshold", "500MB").returncode == 0
    status, found = gate(name, "--threshold", "20kB")
    assert status == 1 and found["passed"] is False
    assert gate(name, "--per-request", "20kB")[0] == 0 and gate(name, "--per-request", "10kB")[0] == 1
    assert gate(name, "--per-endpoint", "25kB")[0] == 0
    status, found = gate(name, "--per-endpoint", "/users/{id}=5kB")
    assert status == 1 and [c["subject"] for c in found["checks"]] == ["/users/{id}"]  # type: ignore[attr-defined]
    assert gate(name, "--per-endpoint", "/fi*=25kB")[0] == 0
    assert gate(name, "--max-share", "60%")[0] == 1 and gate(name, "--max-share", "70%")[0] == 0


def test_sizes_are_exact(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor")
    payload = sum(
        len(r.split(b"\n", 1)[1]) for r in Path(name).read_bytes().split("\n🐵🙈🙉\n".encode())[:-1]
    )
    _, found = gate(name, "--threshold", f"{payload}")
    assert found["total_bytes"] == payload and found["passed"] and found["exchanges"] == 12
    assert gate(name, "--threshold", f"{payload - 1}")[0] == 1


def test_baseline(tmp_path: Path) -> None:
    before, parquet = recording(tmp_path / "before.gor"), str(tmp_path / "before.parquet")
    assert run("exchanges", before, "--to", parquet, "--quiet").returncode == 0
    more = recording(tmp_path / "more.gor", users=50)  # more requests, no heavier
    heavier = recording(tmp_path / "heavier.gor", size=1200)
    for base in (before, parquet):
        assert gate(more, "--baseline", base, "--max-increase", "10%")[0] == 0
        status, found = gate(heavier, "--baseline", base, "--max-increase", "10%")
        failed = [c for c in found["checks"] if not c["passed"]]  # type: ignore[attr-defined]
        assert status == 1 and [c["subject"] for c in failed] == ["/users/{id}"]
        assert gate(heavier, "--baseline", base, "--max-increase", "30%")[0] == 0
        assert gate(more, "--baseline", base, "--max-total-increase", "10%")[0] == 1


def test_a_gate_that_looks_at_nothing_has_not_passed(tmp_path: Path) -> None:
    name, budget = recording(tmp_path / "a.gor"), tmp_path / "budget.yaml"
    budget.write_text("/users/{id}: 2kB\n/file/big: 1kB\n")
    other = tmp_path / "other.gor"
    other.write_bytes(gor([Rec(get("/elsewhere"), 0), Rec(b"HTTP/1.1 204 No Content\r\n\r\n", 0, 2)]))
    for arguments, said in (
        (
            ["--per-endpoint", "/user/{id}=1MB"],
            "no endpoint matches '/user/{id}'; did you mean '/users/{id}'?",
        ),
        (["--per-endpoint", "/zzz=1MB"], "no endpoint matches '/zzz'; there are '/files/big', '/users/{id}'"),
        (["--budget", str(budget)], "no endpoint matches '/file/big'; did you mean '/files/big'?"),
        (["--max-share", "130%"], "--max-share 130%: nothing can be over 100%"),
        (["--baseline", str(other), "--max-increase", "1%"], "no endpoint of the baseline was measured"),
    ):
        done = run("gate", name, *arguments)
        assert done.returncode == 2 and said in done.stderr and done.stdout == "", (arguments, done)


def test_budgets(tmp_path: Path) -> None:
    name, budget = recording(tmp_path / "a.gor"), tmp_path / "budget.yaml"
    budget.write_text("/users/{id}: 2kB\n/files/*: 20kB\n")
    assert run("gate", name, "--budget", str(budget)).returncode == 0
    budget.write_text("endpoints:\n  /users/{id}: 500\n")
    done = run("gate", name, "--budget", str(budget))
    assert done.returncode == 1 and "FAILED  /users/{id}: bytes per request" in done.stdout


def test_outputs(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor")
    limits = ["--threshold", "20kB", "--max-share", "70%"]
    junit = ElementTree.fromstring(run("gate", name, *limits, "--format", "junit").stdout.encode())
    assert (
        junit.get("tests") == "3"
        and junit.get("failures") == "1"
        and junit.find("testcase/failure") is not None
    )
    sarif = json.loads(run("gate", name, *limits, "--format", "sarif").stdout)
    (result,) = sarif["runs"][0]["results"]
    assert sarif["version"] == "2.1.0" and result["ruleId"] in {
        r["id"] for r in sarif["runs"][0]["tool"]["driver"]["rules"]
    }
    github = run("gate", name, *limits, "--format", "github").stdout.splitlines()
    assert github[0].startswith("::error title=bandwidth%3A total::") and github[-1].startswith("::notice ")
    markdown = run("gate", name, *limits, "--format", "markdown").stdout
    assert "| `/files/big` | 2 |" in markdown and markdown.startswith("**bandwidth gate failed")
    out, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    done = run("gate", name, *limits, "--format", "junit", "--output", str(out), "--summary", str(summary))
    assert done.returncode == 1 and "bandwidth gate failed" in done.stdout
    assert ElementTree.parse(out).getroot().tag == "testsuite" and "/files/big" in summary.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no limit given"),
        (["--threshold", "much"], "no size"),
        (["--max-increase", "10%"], "--baseline"),
        (["--baseline", "x"], "--max-increase"),
        (["--max-share", "-1%"], "--max-share"),
        (["--budget", "/nowhere.yaml"], "no such file"),
        (["--threshold", "1MB", "--output", "/nowhere/x", "--format", "json"], "cannot be written"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run("gate", recording(tmp_path / "a.gor"), *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_budgets_that_are_none(tmp_path: Path) -> None:
    name, budget = recording(tmp_path / "a.gor"), tmp_path / "b.yaml"
    for text in ("[", "- a", "a: true", "a: lots", "", "\xff"):
        budget.write_text(text, encoding="latin-1")
        done = run("gate", name, "--budget", str(budget))
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(budget) in done.stderr, (
            done.stderr
        )


def test_all_that_is_wrong_with_budgets_is_told_at_once(tmp_path: Path) -> None:
    budget = tmp_path / "b.yaml"
    budget.write_text("/a: 2kB\n/b: lots\n'/c/{id}': [1]\n/a: 3kB\n")
    with pytest.raises(UsageError) as caught:
        read_budgets(str(budget))
    assert [line.removeprefix(f"{budget}:") for line in caught.value.lines] == [
        "2: /b: 'lots' is no size: write 500MB (10^6) or 500MiB (2^20)",
        "3: /c/{id}: one value is needed here, not a list or a mapping",
        "4: /a: this key stands here twice",
    ]
    budget.write_text("/a: 2kB\nendpoints: {/b: 1kB}\n")
    with pytest.raises(
        UsageError, match=r"b\.yaml:2: endpoints: lines under `endpoints`, or lines at the top"
    ):
        read_budgets(str(budget))


def test_nothing_measured_never_passes(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get("/a"), kind=3)]))
    done = run("gate", str(tmp_path / "a.gor"), "--threshold", "1GB")
    assert done.returncode == 2 and "nothing can pass" in done.stderr
    (tmp_path / "cut.gor").write_bytes(Path(recording(tmp_path / "b.gor")).read_bytes()[:-40])
    assert run("gate", str(tmp_path / "cut.gor"), "--threshold", "1GB").returncode == 2


def test_diff(tmp_path: Path) -> None:
    before, after = recording(tmp_path / "a.gor"), recording(tmp_path / "b.gor", size=2000, files=0)
    found = json.loads(run("diff", before, after, "--format", "json").stdout)
    rows = {r["endpoint"]: r for r in found["endpoints"]}
    assert rows["/files/big"]["state"] == "gone" and rows["/files/big"]["bytes_per_request_change"] is None
    assert rows["/users/{id}"]["bytes_change"] == 10_000
    assert rows["/users/{id}"]["bytes_per_request_change"] == pytest.approx(0.9, abs=0.1)
    table = run("diff", before, after)
    assert table.returncode == 0 and "gone" in table.stdout and "before," in table.stdout
    assert run("diff", before, after, "--format", "csv", "--top", "1").stdout.count("\n") == 2
    assert run("diff", before, "/nowhere").returncode == 2


@pytest.mark.usefixtures("live")
def test_the_whole_step_of_ci(tmp_path: Path) -> None:
    """ci/bandwidth-gate.sh: traffic replayed at a real service while it is captured; within and over."""
    traffic = tmp_path / "test_traffic.gor"
    traffic.write_bytes(gor([Rec(get("/files/100k.bin"), n) for n in range(50)]))
    (tmp_path / "nginx").mkdir()
    with nginx(tmp_path / "nginx") as server:
        for limit, capture, status in (
            ("500MB", "yes", 0),
            ("4MB", "yes", 1),
            ("500MB", "no", 0),
            ("4MB", "no", 1),
        ):
            done = subprocess.run(
                ["sh", str(ROOT / "ci" / "bandwidth-gate.sh"), "--format", "json"],
                capture_output=True,
                text=True,
                check=False,
                env={
                    **os.environ,
                    "TRAFFIC": str(traffic),
                    "SERVICE": f"http://127.0.0.1:{server.port}",
                    "LIMIT": limit,
                    "OUT": str(tmp_path / "out"),
                    "REPLAYKIT": " ".join(REPLAYKIT),
                    "CAPTURE": capture,
                },
                cwd=tmp_path,
            )
            assert done.returncode == status, done.stderr + done.stdout
            found = json.loads(done.stdout[done.stdout.index("{") :])
            assert 5_000_000 < found["total_bytes"] < 5_200_000 and found["exchanges"] == 50
    missing = subprocess.run(
        ["sh", str(ROOT / "ci" / "bandwidth-gate.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert missing.returncode != 0 and "TRAFFIC" in missing.stderr


def test_the_files_for_github_and_gitlab_name_what_exists() -> None:
    action = yaml.safe_load((ROOT / "ci" / "action.yml").read_text())
    steps = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite" and all(s["shell"] == "bash" for s in steps)
    assert set(action["inputs"]) == {"traffic", "service", "limit", "options"}
    gitlab = yaml.safe_load((ROOT / "ci" / "gitlab.yml").read_text())
    script = " ".join(gitlab[".bandwidth-gate"]["script"])
    for text in (script, " ".join(s["run"] for s in steps)):
        assert "bandwidth-gate.sh" in text
        for flag in ("--format", "--output", "--summary"):
            if flag in text:
                assert flag in run("gate", "--help").stdout
    for kind in ("junit", "github"):
        assert kind in run("gate", "--help").stdout
