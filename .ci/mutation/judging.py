"""Judging mutants: each worker has a copy of the tree, imports libraries once, and forks for each mutant."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from settings import JUDGED, PACKAGES, ROOT, SUBJECTS

SLOT = None


def prepare():
    """Give this worker its copy, and import what takes long."""
    global SLOT
    SLOT = Path(tempfile.mkdtemp(prefix="mutation-"))
    for name in (*PACKAGES, "tests", "examples", "docs", ".ci"):
        skip = shutil.ignore_patterns("__pycache__", "node_modules", ".attn-conformance")
        shutil.copytree(ROOT / name, SLOT / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "action.yml"):
        shutil.copy(ROOT / name, SLOT / name)
    os.environ |= {
        "CI": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(str(SLOT / name) for name in PACKAGES),
        "ATTN_CONFORMANCE_DIR": str(SLOT / "kept"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what others have installed is not asked
    }
    roots = {str(ROOT / name) for name in PACKAGES}
    sys.path[:] = [str(SLOT / name) for name in PACKAGES] + [p for p in sys.path if p not in roots]
    skip = [name for name in sys.modules if name.startswith("attn_")]
    assert not skip, skip
    os.chdir(SLOT)
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", *PACKAGES, "tests"],
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},
    )
    for library in (
        "hypothesis",
        "jsonschema",
        "ml_dtypes",
        "mpmath",
        "numpy",
        "pytest",
        "rich.table",
        "torch",
    ):
        with suppress(ImportError):
            import_module(library)


def work(mutant, known, limit, last):
    """The mutant with its outcome, who killed it, and the seconds that took."""
    file, started = mutant["file"], time.monotonic()
    path = SLOT / file
    right = path.read_bytes()
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        stale.unlink()
    path.write_text(mutant["source"], encoding="utf-8")
    log = SLOT / "log"
    try:
        child = os.fork()
        if child == 0:
            _child(file, known, log)
        status = _waited(child, min(limit, last - started))
    finally:
        path.write_bytes(right)
    told = log.read_text(encoding="utf-8", errors="replace")
    by = next(
        (line for line in told.splitlines() if line.startswith(("FAILED", "ERROR", "JUDGED"))), told[-300:]
    )
    outcome = "timeout" if status is None else "survived" if status == 0 else "killed"
    if status is None and time.monotonic() > last:
        outcome = "unfinished"
    found = {name: mutant[name] for name in ("file", "operator", "before", "after", "nth")}
    return found | {"outcome": outcome, "by": by[:300], "seconds": round(time.monotonic() - started, 1)}


def _child(file, known, log):
    """Run what judges the file in this forked process, and end it; known: as `unmutated` gives it, or None."""
    status = 2
    try:
        os.setsid()
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.dont_write_bytecode = True
        status = _posed(file, known) if file in SUBJECTS else _tested(JUDGED[file], known)
        sys.stdout.flush()
    except BaseException as error:
        print("ERROR", type(error).__name__, error, flush=True)
    finally:
        os._exit(status)


def _tested(names, known):
    """Run the unit tests of these names, a file at a time: what a mutant does not reach costs no collection."""
    import pytest

    options = [
        "-q",
        "--tb=line",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
    ]
    options += [] if known is None else ["-x", *(f"--deselect={name}" for name in known)]
    worst = 0
    for name in names:
        worst = max(worst, int(pytest.main([f"tests/unit/test_{name}.py", *options])))
        if worst and known is not None:
            break
    return worst


def _posed(file, expected):
    """Judge an implementation: 0 if every row has the status that it has without a mutation."""
    from attn_conformance.runner import run
    from attn_conformance.targets import Narrowing

    found, other = {}, []
    for name, claimed in SUBJECTS[file][0].items():
        narrowing = Narrowing(add=tuple(claimed.split(",")) if claimed else ())
        report = run(f"{file}:{name}", narrowing=narrowing, isolate=False, explain=False, fail_fast=True)
        for row in report.rows.values():
            at = f"{name} {row.requirement}"
            found[at] = row.status
            if expected is not None and row.status != expected[at]:
                other.append(f"{at} {row.status} {row.message}")
        if other:
            break
    if expected is None:
        print(json.dumps(found))
        return 0
    other.sort(key=lambda one: " failed " not in one)
    if other:
        print("JUDGED", other[0].replace("\n", " "))
    return 1 if other else 0


def _waited(child, limit):
    """The exit status of a child, None if it had to be killed."""
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def unmutated(file):
    """What is not the mutants' doing: tests that fail already, or a subject's rows by status; and the seconds taken."""
    started, log = time.monotonic(), SLOT / "log"
    child = os.fork()
    if child == 0:
        _child(file, None, log)
    status = _waited(child, 900)
    told = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if file in SUBJECTS:
        known = [json.loads(line) for line in told if line.startswith("{")]
    else:
        known = [[line.split()[1] for line in told if line.startswith(("FAILED ", "ERROR "))]]
    if status not in (0, 1) or not known:
        raise SystemExit(f"{file} cannot be judged without a mutation: {told[-30:]}")
    return file, known[-1], time.monotonic() - started
