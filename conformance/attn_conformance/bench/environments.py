"""Environments: where another version or revision of an implementation is imported from, beside the one that is here.

A version is installed into a folder of its own, without its dependencies, and a revision is checked out into one. This
folder comes first on the import path of a process of its own; what it does not hold is taken from this environment. Of
a revision of what is imported from the repository itself, nothing is built: the folders on the import path that lie in
the repository are those of the checkout.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import attn_conformance
import attn_reference
from attn_conformance.endings import printable
from attn_conformance.loading import INSTALLED, OWN, TargetError, place

SUITE = (attn_conformance, attn_reference)
"""Packages that are this suite's own in every process: both sides are posed, timed and judged by the same code."""

SAID = 5
"""Last lines of what a command wrote that are told."""


@dataclass(frozen=True)
class Environment:
    """How a process of an implementation begins.

    name: put behind the target's, "" for what is here. python: the interpreter. paths: its whole import path, None for
    the interpreter's own. folder: its working directory. own: where code has to come from for this to be what was asked
    for, None where that cannot be told; foreign: the repository from which none may come. option: of the command line,
    by which it is asked for.
    """

    name: str
    python: str
    paths: tuple[str, ...] | None
    folder: Path
    own: Path | None = None
    foreign: Path | None = None
    option: str = ""

    def called(self, target: str) -> str:
        """The target as it is called there: a file of the repository by its path in the checkout."""
        home, name = place(target)
        path = Path(home)
        if self.own is None or self.foreign is None or not (home.endswith(".py") and path.is_absolute()):
            return target
        inside = _within(path, self.foreign)
        return f"{self.own / path.resolve().relative_to(self.foreign)}:{name}" if inside else target


def here() -> Environment:
    """What this process imports."""
    return Environment("", sys.executable, tuple(map(_absolute, sys.path)), Path.cwd())


@contextmanager
def revision(name: str, target: str) -> Iterator[Environment]:
    """The repository of the current folder as it was at a git revision; ValueError where that cannot be had."""
    folder = Path.cwd()
    top = Path(_said(["git", "rev-parse", "--show-toplevel"], f"{folder} is in no git repository")).resolve()
    asked = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    commit = _said(asked, f"{top} has no revision {name!r}")
    code = _code(target)
    inside = _within(code, top)
    with tempfile.TemporaryDirectory(prefix="attn-conformance-") as temporary:
        checkout = Path(temporary).resolve() / "revision"
        # A clone that shares the objects: the repository itself is not touched, as it would be by a work tree of it.
        clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(top), str(checkout)]
        _said(clone, f"{top} could not be cloned")
        leave = ["git", "-C", str(checkout), "checkout", "--quiet", "--detach", commit]
        _said(leave, f"{name} could not be checked out")
        label, option = f"at {name}", f"--vs-revision {shlex.quote(name)}"

        def moved(path: str) -> str:
            return str(checkout / Path(path).resolve().relative_to(top)) if _within(Path(path), top) else path

        paths = [moved(_absolute(path)) for path in sys.path]
        work = Path(moved(str(folder)))
        if not work.is_dir():
            work = checkout
        if inside:
            yield Environment(label, sys.executable, tuple(paths), work, checkout, top, option)
            return
        packages = Path(temporary).resolve() / "packages"
        _install(str(checkout), packages)
        yield Environment(label, sys.executable, (str(packages), *paths), work, packages, top, option)


@contextmanager
def package(requirement: str) -> Iterator[Environment]:
    """A requirement as pip reads it, such as NAME==VERSION or a wheel; ValueError where it cannot be installed."""
    with tempfile.TemporaryDirectory(prefix="attn-conformance-") as temporary:
        packages = Path(temporary).resolve() / "packages"
        _install(requirement, packages)
        paths = (str(packages), *map(_absolute, sys.path))
        option = f"--vs-package {shlex.quote(requirement)}"
        yield Environment(f"of {requirement}", sys.executable, paths, Path.cwd(), packages, option=option)


@contextmanager
def interpreter(python: str) -> Iterator[Environment]:
    """What another interpreter imports; ValueError where there is none. It needs the suite's dependencies."""
    found = shutil.which(python)
    if found is None:
        raise ValueError(f"there is no interpreter {python}")
    # Not resolved: an interpreter finds its virtual environment by the path that it is called by.
    option = f"--vs-python {shlex.quote(python)}"
    yield Environment(f"in {python}", str(Path(found).absolute()), None, Path.cwd(), option=option)


@contextmanager
def suite() -> Iterator[Path]:
    """A folder from which the suite's own packages are imported, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="attn-conformance-") as folder:
        for module in SUITE:
            (Path(folder) / module.__name__).symlink_to(Path(module.__path__[0]).resolve())
        yield Path(folder)


def _absolute(path: str) -> str:
    return str(Path(path or ".").absolute())


def _within(path: Path | None, top: Path) -> bool:
    """Whether a path lies in a repository, and not among packages that are installed there."""
    if path is None:
        return False
    path = path.resolve()
    return path.is_relative_to(top) and not any(path.is_relative_to(folder) for folder in INSTALLED)


def _code(target: str) -> Path | None:
    """Where the code of a target is, None if that cannot be told; TargetError for the suite's own."""
    home, name = place(target)
    top = home.partition(".")[0]
    if (home in OWN and name) or top in {module.__name__ for module in SUITE}:
        raise TargetError(f"{target}: is the suite's own code, which is the same in all processes")
    if home.endswith(".py"):
        return Path(home)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    homes = list(spec.submodule_search_locations or ())
    found = homes[0] if homes else spec.origin
    return None if found is None else Path(found)


def _install(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _said(
        [*command, "--target", str(folder), "--", requirement],
        f"{requirement} could not be installed; --vs-python takes an interpreter in which it is",
    )


def _said(command: Sequence[str], otherwise: str) -> str:
    """What a command says; ValueError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"{otherwise}: {error}") from error
    if done.returncode:
        raise ValueError("; ".join([otherwise, *last_lines(done.stderr or done.stdout)]))
    return done.stdout.strip()


def last_lines(text: str) -> list[str]:
    """The end of what was written, without empty lines, for any terminal."""
    return [printable(line.strip()) for line in text.splitlines() if line.strip()][-SAID:]
