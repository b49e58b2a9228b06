"""The suite against hostile targets: each ends in a clear report and an exit status, and none in anything else.

That is, never in a hang, a lost run, a traceback of the suite's, a process that stays, or an exit status 0 that it has
not earned.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attn_conformance.cli import main
from attn_conformance.report.reading import read

HOSTILE = Path(__file__).parent / "hostile"
HANGS = ("--call-limit", "1")
HOARDS = ("--memory-limit", "0.5")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where targets leave notes, and results lie."""
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path))
    monkeypatch.setenv("ATTN_CONFORMANCE_DIR", str(tmp_path / "kept"))
    return tmp_path


@pytest.fixture
def judge(folder, capfd):
    """Run the command line in this process: exit status, what it printed, and the rows that it wrote down."""

    def run(target, only, *options):
        result = folder / "result.json"
        arguments = ("run", target, "--effort", "smoke", "--only", only, "--json", str(result), *options)
        status = main(arguments)
        printed = "".join(capfd.readouterr())
        assert "Traceback" not in printed
        assert "the suite itself failed" not in printed
        rows = read(result)["results"][0]["requirements"] if result.exists() else {}
        return status, printed, rows

    return run


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def notes(folder, name):
    file = folder / name
    return file.read_text().split() if file.exists() else []


# --- what cannot be loaded

AT_IMPORT = {
    "import absent_package": "no module named 'absent_package'",
    "def": "importing it raised SyntaxError: ",
    "raise SystemExit(0)": "importing it raised SystemExit: 0",
    "raise KeyboardInterrupt": "importing it raised KeyboardInterrupt",
    "import os; os._exit(0)": "loading it ended the process with exit status 0",
    "import ctypes; ctypes.string_at(0)": "loading it ended the process by SIGSEGV",
    "while True: pass": "loading it did not return within 1 s",
    "import os\nwhile True: os.write(1, b'x' * 100_000)": "loading it did not return within 1 s",
    "import numpy\nheld = []\nwhile True: held.append(numpy.empty(2**28))": "Unable to allocate",
    "class E(Exception): __str__ = None\nraise E": "importing it raised E: (its text raised TypeError)",
    "def __getattr__(name): raise RuntimeError('private')": "looking at it raised RuntimeError: private",
    "import sys\ndef __getattr__(name): sys.exit(0)": "looking at it raised SystemExit: 0",
}


@pytest.mark.parametrize("source", AT_IMPORT, ids=lambda source: source[:30])
def test_what_fails_at_import_exits_2_with_the_reason(judge, folder, source):
    file = folder / "broken.py"
    file.write_text(source)
    status, printed, _ = judge(f"{file}:attention", "EQ-3", "--load-limit", "1")
    assert status == 2
    assert f"cannot judge {file}:attention" in printed
    assert AT_IMPORT[source] in printed


NO_TARGETS = {
    "in_numpy.py:absent": "has no 'absent'",
    "in_numpy.py:text": "is of type str; a target is a function",
    "in_numpy.py:of_two": "no convention has the parameters (q, k)",
    "in_numpy.py:returns_a_list": "a numpy.ndarray was expected, got list",
    "in_numpy.py:returns_a_pair": "a numpy.ndarray was expected, got tuple",
    "in_numpy.py:returns_nothing": "a numpy.ndarray was expected, got NoneType",
    "in_numpy.py:returns_what_is_nowhere": "it raised RuntimeError: nowhere",
    "in_numpy.py:agreeable": "has claims of type Agreeable",
    "in_numpy.py:touchy": "looking at it raised RuntimeError",
    "in_numpy.py:departing": "looking at it raised SystemExit",
    "in_numpy.py:mock": "has claims of type MagicMock",
    "in_numpy.py:Secretive": "looking at it raised RuntimeError: unsigned",
    "in_numpy.py:Meta": "its constructor is ",
    "in_torch.py:promises": "got Lazy, which has none",
    "in_torch.py:Empty": "its parameters lack query.weight",
}


@pytest.mark.parametrize("target", NO_TARGETS)
def test_what_is_no_target_exits_2_with_the_reason(judge, target):
    status, printed, _ = judge(str(HOSTILE / target), "EQ-1,EQ-3")
    assert status == 2
    assert "cannot judge" in printed
    assert NO_TARGETS[target] in printed


# --- what can

FAILS = [
    # target, requirement, what its row says, options
    (
        "in_numpy.py:sleeps",
        "MASK-1",
        'did not return within 1 s\nin "*in_numpy.py", line * in sleeps*',
        HANGS,
    ),
    ("in_numpy.py:spins", "MASK-1", 'did not return within 1 s\nin "*in_numpy.py", line * in spins*', HANGS),
    ("in_numpy.py:stops", "MASK-1", "did not return within 1 s", HANGS),
    ("in_numpy.py:exits", "MASK-1", "ended the process with exit status 0", ()),
    ("in_numpy.py:leaves", "MASK-1", "raised SystemExit: 0", ()),
    ("in_numpy.py:segfaults", "MASK-1", "ended the process by SIGSEGV (segmentation fault)\nin *", ()),
    ("in_numpy.py:divides", "MASK-1", "ended the process by SIGFPE (arithmetic error)\nin *", ()),
    ("in_numpy.py:interrupts", "MASK-1", "raised KeyboardInterrupt", ()),
    ("in_numpy.py:interrupts_by_hand", "MASK-1", "ended the process with exit status 1*", ()),
    ("in_numpy.py:raises_oddly", "MASK-1", "raised Odd: as no exception should", ()),
    ("in_numpy.py:raises_unreadably", "MASK-1", "raised Unreadable: (its text raised RuntimeError)", ()),
    ("in_numpy.py:raises_and_leaves", "MASK-1", "raised Leaving: (its text raised SystemExit)", ()),
    ("in_numpy.py:raises_what_no_file_takes", "MASK-1", r"raised ValueError: \ud800 \x1b[2J", ()),
    ("in_numpy.py:prints", "EQ-3", "differs from the reference: *", ()),
    ("in_numpy.py:prints_for_ever", "MASK-1", "did not return within 1 s*", HANGS),
    ("in_numpy.py:hoards", "MASK-1", "used up 0.5 GiB of memory: raised MemoryError: *", HOARDS),
    ("in_numpy.py:leaks", "MASK-1", "used up 0.5 GiB of memory: *", HOARDS),
    ("in_numpy.py:changes_directory", "PURE-2", "a call changed the working directory from * to /", ()),
    ("in_numpy.py:seeds", "PURE-2", "the state of a global random generator changed", ()),
    ("in_numpy.py:changes_errors", "PURE-2", "a call changed NumPy's error handling from *", ()),
    ("in_numpy.py:closes_descriptors", "MASK-1", "ended the process with exit status 1", ()),
    ("in_numpy.py:kills_the_parent", "MASK-1", "ended the process *", ()),
    ("in_numpy.py:breaks_a_message_off", "MASK-1", "did not return within 1 s*", HANGS),
    ("in_numpy.py:writes_no_json", "MASK-1", "wrote into its connection with the suite", ()),
    ("in_numpy.py:writes_json_of_its_own", "MASK-1", "wrote into its connection with the suite", ()),
    ("in_numpy.py:writes_a_case_of_its_own", "MASK-1", "wrote into its connection with the suite", ()),
    ("in_numpy.py:writes_without_end", "MASK-1", "wrote into its connection with the suite", ()),
    ("in_numpy.py:returns_its_input", "EQ-3", "differs from the reference: *", ()),
    ("in_numpy.py:returns_nan", "EQ-3", "differs from the reference: *", ()),
    ("in_numpy.py:writes_in_the_next_call", "PURE-1", "a result * has changed in a later call", ()),
    ("in_numpy.py:writes_later", "PURE-1", "a result * has changed in a later call", ()),
    ("in_numpy.py:computes_later", "EQ-3", "differs from the reference: *", ()),
    ("in_numpy.py:remembers_addresses", "PURE-6", "differs from the reference once v is overwritten*", ()),
    ("in_numpy.py:copies", "EQ-3", "it called the reference (attn_reference.kernel.attention, *", ()),
    ("in_numpy.py:copies_in_a_thread", "EQ-3", "it called the reference (attn_reference.kernel.*", ()),
    ("in_torch.py:changes_default_dtype", "PURE-2", "a call changed PyTorch's default dtype from *", ()),
    ("in_torch.py:changes_threads", "PURE-2", "a call changed PyTorch's number of threads from *", ()),
    ("in_torch.py:seeds", "PURE-2", "the state of a global random generator changed", ()),
    ("in_torch.py:hoards", "MASK-1", "used up 0.5 GiB of memory: raised RuntimeError: *", HOARDS),
    ("in_torch.py:Segfaulting", "MASK-1", "ended the process by SIGSEGV*line * in forward*", ()),
    ("in_torch.py:Answering", "CTOR-1", "accepted n_state=1, n_head=2*", ()),
    ("in_torch.py:ReturningItsInput", "EQ-1", "differs from the reference: *", ()),
    ("in_torch.py:ReturningAPair", "OUT-1", "returned the wrong type: * got tuple", ()),
    ("in_torch.py:SeedingItself", "PURE-2", "the state of a global random generator changed", ()),
]


@pytest.mark.parametrize(("target", "only", "says", "options"), FAILS, ids=[case[0] for case in FAILS])
def test_what_it_does_is_a_failure_that_says_so(judge, target, only, says, options):
    status, printed, rows = judge(str(HOSTILE / target), only, *options)
    assert status == 1
    row = rows[only]
    assert row["status"] == "failed"
    assert _matches(row["message"], says), row["message"]
    assert row["counterexample"] is not None or "OUT-1" in only or "it called" in says
    assert f"{only} failed (must)" in printed
    assert " fails (1 of " in printed


def _matches(text, pattern):
    """Whether a text has the parts between the asterisks in their order."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


@pytest.mark.parametrize("name", ["leaves", "raises_oddly", "raises_unreadably", "raises_and_leaves"])
def test_exceptions_that_end_programs_do_not_end_ours_without_isolation_either(judge, name):
    status, _, rows = judge(str(HOSTILE / f"in_numpy.py:{name}"), "MASK-1", "--no-isolate")
    assert (status, rows["MASK-1"]["status"]) == (1, "failed")
    assert rows["MASK-1"]["message"].startswith("raised ")


@pytest.mark.parametrize("name", ["agreeable", "touchy", "mock", "Secretive"])
def test_liars_are_no_targets_without_isolation_either(judge, name):
    status, printed, _ = judge(str(HOSTILE / f"in_numpy.py:{name}"), "MASK-1", "--no-isolate")
    assert status == 2
    assert NO_TARGETS[f"in_numpy.py:{name}"] in printed


def test_threads_that_a_call_waits_for_are_its_own_affair(judge):
    status, _, rows = judge(str(HOSTILE / "in_numpy.py:computes_in_a_thread"), "EQ-3,PURE-1,PURE-2,PURE-6")
    assert status == 0
    assert {rows[name]["status"] for name in ("EQ-3", "PURE-1", "PURE-2", "PURE-6")} == {"passed"}


@pytest.mark.parametrize("name", ["leaves_threads", "leaves_children", "forks_and_returns_twice"])
def test_what_is_left_running_neither_answers_nor_stays(judge, folder, name):
    status, _, rows = judge(str(HOSTILE / f"in_numpy.py:{name}"), "EQ-3,MASK-1,MASK-2")
    assert status == 0
    assert [rows[name]["status"] for name in ("EQ-3", "MASK-1", "MASK-2")] == ["passed"] * 3
    children = notes(folder, "children")
    assert bool(children) == (name == "leaves_children")
    assert not any(alive(child) for child in children)


def test_a_crash_in_every_second_process_is_a_failure_that_does_not_repeat(judge):
    target = str(HOSTILE / "in_numpy.py:crashes_in_every_second_process")
    status, _, rows = judge(target, "MASK-1,MASK-2")
    assert status == 1
    assert rows["MASK-1"]["message"].startswith("ended the process by SIGSEGV")
    assert rows["MASK-1"]["message"].endswith(
        "(not repeatable: in a second process the same case did no harm)"
    )
    assert rows["MASK-1"]["counterexample"] is not None
    assert rows["MASK-2"]["status"] == "passed"


def test_a_crash_is_not_lost_where_the_target_loads_only_once(judge, folder):
    file = folder / "once.py"
    source = "import os\nfrom in_numpy import note, segfaults\n"
    file.write_text(f"{source}if os.path.exists({str(folder / 'loaded')!r}): os._exit(3)\nnote('loaded')\n")
    (folder / "in_numpy.py").write_text((HOSTILE / "in_numpy.py").read_text())
    status, _, rows = judge(f"{file}:segfaults", "MASK-1,MASK-2")
    assert status == 1
    assert rows["MASK-1"]["status"] == "failed"
    assert rows["MASK-1"]["message"].startswith("ended the process by SIGSEGV")
    assert rows["MASK-2"]["status"] == "error"
    assert rows["MASK-2"]["message"].endswith("loading it ended the process with exit status 3")


def test_after_three_costly_cases_the_rest_is_not_run_and_nothing_conforms(judge):
    status, printed, rows = judge(
        str(HOSTILE / "in_numpy.py:sleeps"), "EQ-3,MASK", "--call-limit", "0.5", "--quiet"
    )
    assert status == 1
    assert [rows[f"MASK-{n}"]["status"] for n in (1, 2, 3)] == ["failed"] * 3
    spent = "not run: too many cases have used up their time or memory"
    assert {rows[f"MASK-{n}"]["message"] for n in range(4, 9)} == {spent}
    assert rows["EQ-3"]["status"] == "passed"
    assert "conforms" not in printed


# --- what ends the suite from outside


def heed_ctrl_c():
    """As in a terminal, also where the tests themselves run in the background, in which shells ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Run:
    """The command line in a process group of its own, as in a terminal, and whatever it starts."""

    def __init__(self, folder, targets, *options):
        self.mark = f"HOSTILE_MARK={folder.name}-{os.getpid()}"
        self.result = folder / "result.json"
        name, _, value = self.mark.partition("=")
        command = ("-m", "attn_conformance", "run", *targets, "--effort", "smoke", "--json", self.result)
        self.process = subprocess.Popen(
            [sys.executable, *command, "--call-limit", "600", *options],
            env=os.environ | {name: value, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self.until(lambda: len(notes(folder, "asleep")) >= int(options[-1] if "--jobs" in options else 1))
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def end(self, number):
        """Send a signal to the group: what was printed and the exit status; then nothing may be left."""
        os.killpg(self.process.pid, number)
        printed, _ = self.process.communicate(timeout=20)
        self.until(lambda: not self.living(), 10)
        return self.process.returncode, printed

    def until(self, condition, seconds=30):
        """Wait; it must come true."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit
            time.sleep(0.05)

    def living(self):
        """Processes of this run, by the mark in their environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0") and alive(entry.name):
                    found.append(entry.name)
            except OSError:
                continue
        return found


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_reports_the_rest_as_interrupted_and_leaves_no_process(folder, jobs):
    run = Run(folder, [HOSTILE / "in_numpy.py:sleeps"], "--only", "EQ-3,MASK", "--jobs", jobs)
    status, printed = run.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in printed
    (result,) = read(run.result)["results"]
    assert result["interrupted"]
    rows = result["requirements"]
    asked = 1 + sum(name.startswith("MASK") for name in rows)
    assert f"could not be judged completely, interrupted after 1 of {asked} requirements" in " ".join(
        printed.split()
    )
    assert f"in_numpy.py:sleeps: interrupted after 1 of {asked} requirements\n" in printed
    assert rows["EQ-3"]["status"] == "passed"
    assert {rows[f"MASK-{n}"]["message"] for n in range(1, 9)} == {"not run: interrupted"}


def test_ctrl_c_ends_a_run_of_several_targets(folder):
    right = HOSTILE / "in_numpy.py:right"
    status, printed = Run(folder, [HOSTILE / "in_numpy.py:sleeps", right], "--only", "MASK-1").end(
        signal.SIGINT
    )
    assert status == 130
    assert f"not judged, since interrupted: {right}" in printed
    assert "right conforms" not in printed


def test_ctrl_c_while_a_target_is_being_loaded_is_no_traceback(folder):
    file = folder / "slow.py"
    file.write_text(f"import time\nopen({str(folder / 'asleep')!r}, 'w').write('x')\ntime.sleep(600)\n")
    assert Run(folder, [f"{file}:attention"]).end(signal.SIGINT) == (130, "interrupted\n")


@pytest.mark.parametrize("name", ["sleeps", "spins", "sleeps_beside_a_child"])
def test_the_death_of_the_suite_leaves_no_process(folder, name):
    run = Run(folder, [HOSTILE / f"in_numpy.py:{name}"], "--only", "MASK-1")
    assert len(run.living()) > 2
    os.kill(run.process.pid, signal.SIGKILL)
    run.until(lambda: not run.living(), 10)
    run.process.communicate(timeout=20)
