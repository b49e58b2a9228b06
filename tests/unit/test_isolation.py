"""Isolation: the same rows as without it, crashes and hangs as findings with small cases, and nothing left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import Pipe, forkserver
from pathlib import Path

import pytest

import attn_conformance
from attn_conformance.cases import KernelCase
from attn_conformance.cli import main
from attn_conformance.database import Database
from attn_conformance.isolation.limits import Limits
from attn_conformance.isolation.starting import context, may_use_torch, start
from attn_conformance.isolation.worker import LARGEST, Channel
from attn_conformance.isolation.workers import Worker, Workers
from attn_conformance.loading import TargetError
from attn_conformance.results import SPENT
from attn_conformance.rows import Order
from attn_conformance.targets import Narrowing

RIGHT = (
    Path(__file__).parents[2].joinpath("examples", "numpy_kernel.py").read_text() + "\n\nright = attention\n"
)
WRONG = """
def attention(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal) + (q.shape[2] > 2)
"""
DEADLY = """
import os

def attention(q, k, v, mask=None, is_causal=False):
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}} ")
    {when}
    return right(q, k, v, mask, is_causal)
"""


@pytest.fixture
def written(tmp_path):
    """A target in a file, whose text may change between runs."""

    def write(source=""):
        file = tmp_path / "kernel.py"
        file.write_text(RIGHT + source)
        return f"{file}:attention"

    return write


@pytest.fixture
def deadly(written, tmp_path):
    """A target that executes a statement in each call, and the processes that have called it since."""

    def write(when):
        return written(DEADLY.format(log=str(tmp_path / "pids"), when=when))

    write.processes = lambda: set((tmp_path / "pids").read_text().split())
    return write


def judged(target, *only, **options):
    return attn_conformance.run(target, effort="smoke", only=only, **{"explain": False, **options})


# --- the same rows


@pytest.mark.parametrize("target", ["mutant:inverted-mask", "numpy-reference-kernel"])
def test_rows_are_the_same_in_this_process_in_another_and_in_two(target):
    asked = ("EQ-3", "MASK-1", "MASK-6", "MASK-10", "CAUSAL-7", "ERR-1", "KERN-1", "KERN-4")
    ways = ({"isolate": False}, {}, {"jobs": 2})
    reports = [judged(target, *asked, explain=True, **way) for way in ways]
    found = [{name: replace(row, seconds=0.0).to_json() for name, row in r.rows.items()} for r in reports]
    written = [
        json.dumps([rows, r.claims, r.events, r.verdict]) for rows, r in zip(found, reports, strict=True)
    ]
    assert written[0] == written[1] == written[2]
    statuses = {row["status"] for row in found[0].values()}
    assert statuses == {"passed", "observed", "skipped"} | ({"failed"} if "mutant" in target else set())


def test_a_script_without_a_main_guard_may_run_at_its_top_level(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import attn_conformance\n"
        "report = attn_conformance.run('numpy-reference-kernel', effort='smoke', only=('EQ-3',), jobs=2)\n"
        "print(report.verdict)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("conforms\n", "")


def test_a_thread_may_run_it():
    reports = []
    thread = threading.Thread(target=lambda: reports.append(judged("numpy-reference-kernel", "EQ-3")))
    thread.start()
    thread.join()
    assert reports[0].verdict == "conforms"


def test_a_worker_has_the_surroundings_of_this_process(written, monkeypatch, tmp_path):
    monkeypatch.setenv("HERE_ONCE", "1")
    judged("numpy-reference-kernel", "EQ-3")  # starts the fork server, if nobody has
    monkeypatch.delenv("HERE_ONCE")
    monkeypatch.setenv("HERE_NOW", "1")
    monkeypatch.chdir(tmp_path)
    source = "import os\nassert ('HERE_ONCE' in os.environ, os.environ.get('HERE_NOW')) == (False, '1')\n"
    assert judged(written(f"{source}assert os.getcwd() == {str(tmp_path)!r}\n"), "EQ-3").verdict == "conforms"


# --- crashes, hangs and what they cost


def test_a_crash_is_made_smaller_in_the_first_row_that_fails_by_it(deadly):
    target = deadly("if q.shape[2] > 4 and k.shape[2] > 4: os._exit(3)")
    report = judged(target, "EQ-3")
    case = KernelCase.from_json(report.rows["EQ-3"].counterexample)
    assert report.rows["EQ-3"].message == "ended the process with exit status 3"
    assert (case.queries, case.keys) == (5, 5)
    assert case.batch * case.heads * case.head_size <= 16
    alone = len(deadly.processes())
    assert alone > 4
    more = judged(target, "EQ-3", "EQ-5", "EQ-6")
    assert more.rows["EQ-3"].counterexample == report.rows["EQ-3"].counterexample
    assert {more.rows[name].status for name in ("EQ-5", "EQ-6")} == {"failed"}
    assert len(deadly.processes()) <= 2 * alone + 4  # EQ-5 and EQ-6 have cost two each at most


def test_a_crash_is_said_to_repeat_only_where_it_has(deadly, tmp_path):
    flag = str(tmp_path / "crashed")
    once = f"os.path.exists({flag!r}) or mask is None or (open({flag!r}, 'w'), os._exit(3))"
    row = judged(deadly(once), "MASK-1").rows["MASK-1"]
    assert row.status == "failed"
    assert row.message == (
        "ended the process with exit status 3 (not repeatable: in a second process the same case did no harm)"
    )
    assert KernelCase.from_json(row.counterexample).mask is not None


def test_a_crash_in_what_is_not_claimed_is_no_failure(deadly):
    row = judged(deadly("if q.shape[1] != k.shape[1]: os._exit(3)"), "KERN-1").rows["KERN-1"]
    assert (row.status, row.message) == ("skipped", "not claimed: gqa")


def test_a_crash_in_what_is_observed_is_observed(deadly):
    report = judged(deadly("if mask is not None and mask.ndim == 3: os._exit(3)"), "MASK-10", "EQ-3")
    assert report.rows["MASK-10"].status == "observed"
    assert "ended the process with exit status 3 (" in report.rows["MASK-10"].observation
    assert report.verdict == "conforms"


def test_a_hang_is_tried_once_and_what_is_not_run_then_does_not_conform(deadly):
    target = deadly("while mask is not None and mask.ndim == 3: pass")
    started = time.monotonic()
    report = judged(target, "MASK-10", "CAUSAL-1", limits=Limits(call=1.0, costs=1))
    assert time.monotonic() - started < 5
    assert "did not return within 1 s" in report.rows["MASK-10"].observation
    assert (report.rows["CAUSAL-1"].status, report.rows["CAUSAL-1"].message) == ("skipped", SPENT)
    assert report.verdict == "incomplete"
    assert not report.ok()


def test_what_the_suite_itself_raises_in_a_process_is_an_error_of_the_suite(written):
    workers = Workers(written())
    for name in ("EQ-3", "MASK-1"):
        judged = workers.judge(Order(name, effort="quick"))  # which `run` would have refused
        assert (judged.row.status, judged.row.message) == (
            "error",
            "the suite itself failed: KeyError: 'quick'",
        )
        assert workers.judge(Order("EQ-3", "smoke")).row.status == "passed"
    workers.close()


def test_a_first_call_that_ends_the_process_is_not_blamed_on_the_import(written):
    with pytest.raises(
        TargetError, match="the smallest call, with numpy arrays, ended the process with exit status 3"
    ):
        Workers(written("import os\n\ndef attention(q, k, v):\n    os._exit(3)\n"))


def test_a_process_that_ends_between_two_rows_is_a_failure_of_the_second(written):
    workers = Workers(written("import os, threading\nthreading.Timer(1.5, os._exit, [3]).start()\n"))
    assert workers.judge(Order("EQ-3", "smoke")).row.status == "passed"
    time.sleep(2)
    row = workers.judge(Order("EQ-5", "smoke")).row
    assert (row.status, row.message) == ("failed", "ended the process with exit status 3, before any case")
    assert workers.judge(Order("EQ-3", "smoke")).row.status == "passed"
    workers.close()


# --- nothing is left


def held():
    """What this process holds: descriptors, threads, and all processes that descend from it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(entry.name)] = int(parent)
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return len(os.listdir("/proc/self/fd")), threading.active_count(), family


def interrupting(name, done, total):
    if name == "CAUSAL-1":
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("when", "options"),
    [
        ("", {}),
        ("", {"jobs": 2}),
        ("", {"progress": interrupting}),
        ("if q.shape[2] > 3: os._exit(3)", {}),
        ("while q.shape[2] > 3: pass", {"limits": Limits(call=0.5)}),
        ("os._exit(3)", {}),
    ],
    ids=["right", "in-two", "interrupted", "crash", "hang", "no-target"],
)
def test_nothing_is_left_after_a_run(deadly, when, options):
    judged("numpy-reference-kernel", "EQ-3")  # the fork server stays, for the next run
    before = held()
    try:
        judged(deadly(when), "EQ-3", "CAUSAL-1", **options)
    except TargetError:
        assert when == "os._exit(3)"
    assert held() == before


# --- the talk


@pytest.fixture
def ends():
    ours, theirs = Pipe()
    yield Channel(ours), theirs
    ours.close()
    theirs.close()


def test_a_message_that_is_broken_off_is_not_waited_for(ends):
    channel, theirs = ends
    os.write(theirs.fileno(), b'{"row": ')
    assert channel.receive(0.1) is None
    os.write(theirs.fileno(), b'{}}\n{"second": 1}\n')
    assert [channel.receive(0.1), channel.receive(0.1), channel.receive(0)] == [
        {"row": {}},
        {"second": 1},
        None,
    ]


@pytest.mark.parametrize("text", [b"[]\n", b"no JSON\n", b"\xff\n", b"\n"])
def test_what_is_no_message_is_refused(ends, text):
    channel, theirs = ends
    os.write(theirs.fileno(), text)
    with pytest.raises(ValueError):  # noqa: PT011  # of json, or ours
        channel.receive(1)


def test_a_message_without_end_is_refused(ends):
    channel, theirs = ends

    def write():
        with contextlib.suppress(OSError):  # nobody reads it to the end
            os.write(theirs.fileno(), b"x" * (LARGEST + 2**20))

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(ValueError, match="too long"):
        channel.receive(20)
    channel.connection.close()
    writer.join()


def test_the_end_of_the_other_side_is_seen_though_somebody_else_holds_its_connection(ends):
    channel, theirs = ends
    reader, writer = os.pipe()
    channel_of_another = os.dup(theirs.fileno())
    os.write(theirs.fileno(), b'{"last": 1}\n')
    os.close(writer)
    assert channel.receive(5, reader) == {"last": 1}
    with pytest.raises(EOFError):
        channel.receive(5, reader)
    os.close(channel_of_another)
    os.close(reader)


@pytest.fixture(scope="module")
def worker():
    worker = Worker("numpy-reference-kernel", Narrowing(), Limits(memory=0.5))
    worker.ask({}, 60, dict)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("script", "arguments", "status"),
    [
        ("", [], 0),
        ("import sys\nsys.exit(sys.argv[1:] != ['reference'])", ["reference"], 0),
        ("import sys\nsys.exit(sys.argv[1:] != ['reference'])", [], 1),
        ("raise SystemExit('no')", [], 1),
        ("1 / 0", [], 1),
        ("if __name__ == '__main__': raise SystemExit(5)", [], 5),
        ("import ctypes\nctypes.string_at(0)", [], -11),
        ("while True: pass", [], -9),
        ("import threading\nthreading.Thread(target=threading.Event().wait).start()", [], -9),
        ("import numpy\nheld = [numpy.empty(2**24) for _ in range(9)]", [], 1),
        ("while True: print('x' * 1000)", [], -9),
    ],
)
def test_scripts_run_by_themselves_for_a_while(worker, script, arguments, status):
    seconds = 1 if status == -9 else 30
    assert worker.execute({"execute": script, "arguments": arguments, "seconds": seconds}, 60) == status


def test_scripts_have_no_more_time_than_is_left(worker):
    request = {"execute": "while True: pass", "arguments": [], "seconds": 60}
    started = time.monotonic()
    assert (worker.execute(request, 0.5), worker.execute(request, -1)) == (-9, -9)
    assert time.monotonic() - started < 10


def test_the_scripts_of_a_hang_are_tried_for_as_long_as_calls_may_take(deadly):
    target = deadly("while q.shape[2] > 3: pass")
    started = time.monotonic()
    row = judged(target, "EQ-3", limits=Limits(call=1.0), explain=True).rows["EQ-3"]
    assert time.monotonic() - started < 10
    assert row.message.startswith("did not return within 1 s")
    assert (row.reproducer, bool(row.unproved)) == (None, True)


# --- what earlier runs have found


def test_a_counterexample_comes_first_in_the_next_run_until_it_fails_no_longer(written, tmp_path):
    database = Database(tmp_path / "kept")
    target = written(WRONG)
    first = judged(target, "EQ-3", database=database).rows["EQ-3"]
    assert first.status == "failed"
    other = {"database": database, "seed": 5}
    again = judged(target, "EQ-3", **other).rows["EQ-3"]
    assert (again.status, again.examples, again.counterexample) == ("failed", 1, first.counterexample)
    narrower = judged(target, "EQ-3", **other, narrowing=Narrowing(dtypes=("float64",))).rows["EQ-3"]
    assert narrower.counterexample != first.counterexample
    assert judged(written(), "EQ-3", **other).rows["EQ-3"].status == "passed"
    assert database.entries("EQ-3", target, "cpu")[-1].claims["dtypes"] == ["float64"]
    assert len(database.entries("EQ-3", target, "cpu")) == 1
    assert database.warnings == []


def test_a_crash_comes_first_in_the_next_run_too(deadly, tmp_path):
    database = Database(tmp_path / "kept")
    target = deadly("if q.shape[2] > 3: os._exit(3)")
    first = judged(target, "EQ-3", database=database).rows["EQ-3"]
    again = judged(target, "EQ-3", database=database, seed=5).rows["EQ-3"]
    assert (again.examples, again.counterexample) == (1, first.counterexample)
    assert again.message == first.message == "ended the process with exit status 3"


def test_replay_tries_the_counterexamples_of_a_result_and_no_others(written, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = str(tmp_path / "result.json")
    target = written(WRONG.replace("return", "q *= 2\n    return"))
    arguments = ("run", target, "--effort", "smoke", "--only", "EQ-3,PURE-1")
    assert main((*arguments, "--json", result)) == 1
    assert main(("run", target, "--replay", result)) == 1
    printed = capsys.readouterr().out
    assert "EQ-3 failed (must)" in printed.rpartition("kernel, convention")[2]
    written()
    monkeypatch.delenv("ATTN_CONFORMANCE_DIR", raising=False)
    again = str(tmp_path / "again.json")
    assert main(("run", target, "--replay", result, "--json", again)) == 0
    rows = json.loads(Path(again).read_text())["results"][0]["requirements"]
    assert {name: row["examples"] for name, row in rows.items() if row["status"] == "passed"} == {
        "EQ-3": 1,
        "PURE-1": 1,
    }
    assert "not asked for (--replay)" in rows["EQ-6"]["message"]


def test_a_fork_server_that_was_killed_is_replaced():
    server = context("numpy-reference-kernel", "cpu")
    for _ in range(5):
        process, life = start(server, print)
        process.join()
        life.close()
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    process, life = start(server, print)
    process.join()
    life.close()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("source", "loaded"),
    [
        ("import math\nimport numpy as np\n", False),
        ("import numpy as np\nfrom mypkg.kernels import attention\n", True),
        ("def attention(q, k, v):\n    import torch\n", True),
        ("from . import neighbour\n", False),
        ("import torch (", False),
    ],
)
def test_pytorch_is_loaded_ahead_for_files_that_may_use_it(tmp_path, source, loaded):
    file = tmp_path / "kernel.py"
    file.write_text(source)
    assert may_use_torch(f"{file}:attention") is loaded
