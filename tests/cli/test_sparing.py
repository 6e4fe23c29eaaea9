"""What a command does not use it does not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from samples.make import OUT

PROGRAM = """
import sys
from replaykit.cli.start import command
sys.argv = ["replaykit", *sys.argv[1:]]
status = command()
compute = vars(sys.modules["pyarrow.compute"]).get("add") is not None
print(status, "numpy" in sys.modules, "pandas" in sys.modules, "rich" in sys.modules, compute, file=sys.stderr)
"""  # noqa: E501


def run(program: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    return done.stderr.splitlines()[-1].split()


def test_exchanges_load_neither_tables_nor_computing(tmp_path: Path) -> None:
    found = run(PROGRAM, "exchanges", str(OUT), "--quiet", "--to", str(tmp_path / "a.parquet"))
    assert found == ["0", "False", "False", "False", "False"]


def test_a_report_loads_tables() -> None:
    assert run(PROGRAM, "report", str(OUT)) == ["0", "False", "False", "True", "False"]


def test_who_asks_for_numpy_gets_it_and_threads_may_load_at_once() -> None:
    program = """
import sys, threading
from replaykit.cli import sparing
sparing.begin()
import pyarrow as pa
import pyarrow.compute as pc
assert "numpy" not in sys.modules and "add" not in vars(pc)
found, start = [], threading.Barrier(8)
def work():
    start.wait()
    found.append(pc.add(pa.array([1]), 2)[0].as_py())
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
import numpy
try:
    pc.nothing_of_this_name
except AttributeError as error:
    assert "nothing_of_this_name" in str(error)
print(found.count(3), numpy.ones(2).sum(), file=sys.stderr)
"""
    assert run(program) == ["8", "2.0"]


def test_all_of_it_can_be_loaded_at_once() -> None:
    program = """
import sys
from replaykit.cli import sparing
sparing.begin()
import pyarrow.compute as pc
sparing.finish()
assert "add" in vars(pc) and "console" in vars(sys.modules["replaykit.reporting.terminal"])
print("loaded", type(pc).__name__, file=sys.stderr)
"""
    assert run(program) == ["loaded", "module"]
