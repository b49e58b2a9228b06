"""Contenders in processes of their own: two versions of an implementation, timed in turn, round by round."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing import Pipe
from pathlib import Path
from time import monotonic
from typing import Any

from attn_conformance.bench.clocks import Clock, HostClock, Reading
from attn_conformance.bench.environments import Environment, here, last_lines, suite
from attn_conformance.bench.grids import grid
from attn_conformance.bench.pairs import Progress, Side
from attn_conformance.bench.results import Benchmarks, Measurement
from attn_conformance.bench.rule import Rule
from attn_conformance.bench.run import asked, contest, of_one_kind, silent
from attn_conformance.bench.workloads import Workload
from attn_conformance.isolation.worker import Channel
from attn_conformance.judge import Failed
from attn_conformance.loading import TargetError
from attn_conformance.targets import Narrowing

PATIENCE = 300.0
"""Seconds that an answer may take: a first call may compile kernels."""

BOOT = """
import json, sys
paths, suite, descriptor = json.loads(sys.argv[1])
sys.path[:] = [suite, *([path for path in sys.path if path] if paths is None else paths)]
from attn_conformance.bench.distant_worker import serve
serve(descriptor)
"""
"""What the interpreter of an environment runs."""


class Distant:
    """A target in a process of an environment; a process that has ended is replaced when a workload is next posed."""

    def __init__(
        self, target: str, environment: Environment, narrowing: Narrowing, packages: Path, ticks: str | None
    ) -> None:
        """TargetError where the target cannot be called there. packages: the suite's; ticks: as for `run`."""
        self.name, self.where, self.narrowing = target, environment, narrowing
        self.packages, self.ticks = packages, ticks
        self.target = f"{target} {environment.name}".strip()
        self.copies: list[Distant] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._start()
        self.kind, self.framework = self.facts["kind"], self.facts["framework"]
        self.version: str | None = self.facts["version"]

    def _start(self) -> None:
        """Begin a process; TargetError where it does not come to a first answer."""
        ours, theirs = Pipe()
        paths, variables = self.where.paths, dict(os.environ)
        variables.pop("PYTHONPATH", None)
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  # for as long as the process
        told = json.dumps([paths, str(self.packages), theirs.fileno()])
        self.process = subprocess.Popen(
            [self.where.python, "-c", BOOT, told],
            cwd=self.where.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.channel = Channel(ours)
        own, foreign = (path and str(path) for path in (self.where.own, self.where.foreign))
        order = {
            "target": self.where.called(self.name),
            "narrowing": asdict(self.narrowing),
            "ticks": self.ticks,
        }
        try:
            with contextlib.suppress(OSError):  # what has become of it, reading tells
                self.channel.send(**order, own=own, foreign=foreign)
            answer = self._received()
        except Failed as failed:
            self.close()
            raise TargetError(f"{self.target}: could not be loaded: {failed}") from failed
        if "facts" not in answer:
            self.close()
            raise TargetError(f"{self.target}: {answer['unjudgeable']}")
        self.facts: Mapping[str, Any] = answer["facts"]

    def ask(self, question: str, *of: Any) -> Any:
        """What the process answers; Failed for a fault of the implementation, of which its end is one."""
        if self.process is None:
            raise Failed("its process has ended")
        with contextlib.suppress(OSError):
            self.channel.send(ask=question, of=of)
        answer = self._received()
        if "answer" in answer:
            return answer["answer"]
        if "failed" in answer:
            raise Failed(answer["failed"])
        raise RuntimeError("; ".join([f"{self.target}: {answer['broken']}", *self._words()]))

    def told(self, question: str, *of: Any) -> Any:
        """As `ask`, where nothing has been asked of the implementation: TargetError."""
        try:
            return self.ask(question, *of)
        except Failed as failed:
            raise TargetError(f"{self.target}: {failed}") from failed

    def _received(self) -> Mapping[str, Any]:
        try:
            answer = self.channel.receive(PATIENCE)
        except (EOFError, OSError, ValueError):
            raise Failed(self._ended()) from None
        if answer is None:
            self.close()
            raise Failed(f"its process did not answer within {PATIENCE:.0f} s")
        return answer

    def _ended(self) -> str:
        """How the process came to its end, and its last words."""
        assert self.process is not None
        process = self.process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        words = self._words()
        self.close()
        code = process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return "; ".join([f"its process ended {how}", *words])

    def _words(self) -> list[str]:
        """The last that its process wrote."""
        self.output.seek(0)
        return last_lines(self.output.read().decode(errors="replace"))

    def close(self) -> None:
        """End the process, and those of copies."""
        for copy in self.copies:
            copy.close()
        process, self.process = self.process, None
        if process is not None:
            self.channel.connection.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.output.close()

    def missing(self, workload: Workload) -> str | None:
        """Why a workload cannot be posed to it, None if it can."""
        reason: str | None = self.told("missing", workload.to_json())
        return reason

    def side(self, workload: Workload, seed: Sequence[int]) -> Side:
        """The workload posed to it, by a new process where the last one has ended."""
        if self.process is None:
            try:
                self._start()
            except TargetError as error:
                raise Failed(str(error)) from error
        return DistantSide(self, workload, seed)

    def copy(self) -> Distant:
        """The same in another process: as far apart as candidate and base are."""
        made = Distant(self.name, self.where, self.narrowing, self.packages, self.ticks)
        self.copies.append(made)
        return made

    def environment(self) -> Mapping[str, Any]:
        """Of its process."""
        found: Mapping[str, Any] = self.told("environment")
        return found

    def fingerprint(self) -> Mapping[str, Any]:
        """Of the machine, as its process measures it."""
        found: Mapping[str, Any] = self.told("fingerprint")
        return found

    def throttled(self) -> str | None:
        """What slows its device down, None also where its process has ended."""
        try:
            reason: str | None = self.ask("throttled")
        except Failed:
            return None
        return reason


class Apart:
    """In place of what is posed in another process."""

    def alike(self, other: object) -> bool:
        """Buffers are not exchanged between processes."""
        return False


class DistantSide(Side):
    """A side whose rounds another process times."""

    def __init__(self, contender: Distant, workload: Workload, seed: Sequence[int]) -> None:
        """seed: of its inputs. Failed if the implementation refuses to be built."""
        self.contender, self.workload = contender, workload
        self.posed: Any = Apart()
        self.readings: list[Reading] = []
        self.kernels: tuple[str, ...] = ()
        self.problem: str | None = None
        contender.ask("pose", workload.to_json(), list(seed))

    def round(self, clock: Clock) -> None:
        """Have a round timed by the other process's clock of the same name."""
        assert isinstance(clock, HostClock)  # it but collects here
        clock.readings.append(Reading(**self.contender.ask("round", clock.name)))

    def begin(self, repeats: int) -> None:
        """Forget the warm-up, but for what it ran."""
        self.readings = []
        self.kernels = tuple(self.contender.ask("begin", repeats))

    def measured(self, clock: Clock) -> Measurement:
        """The other process's verdict on what was kept, and what was read."""
        target, version = self.contender.target, self.contender.version
        if self.problem is None:
            try:
                found = self.contender.ask("measured", clock.name)
            except Failed as failed:
                self.problem = str(failed)
            else:
                listed = {name: tuple(found[name]) for name in ("seconds", "wall", "kernels")}
                return Measurement(**{**found, **listed, "target": target, "version": version})
        return Measurement(target, version, kernels=self.kernels, problem=self.problem)


def run(
    target: str,
    base: str,
    environment: Environment,
    *,
    narrowing: Narrowing = Narrowing(),
    only: Sequence[str] = (),
    workloads: Sequence[Workload] | None = None,
    seed: int = 0,
    rule: Rule = Rule(),
    progress: Progress = silent,
    ticks: str | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Benchmarks:
    """Decide whether a target, as it is here, is slower than a base in another environment.

    Each is in a process of its own, and so are the two copies of the base that have to be found equal. ticks: a target
    that gives nanoseconds, in place of the clocks. The others, and what is raised: as `bench.run.run`.
    """
    begun = monotonic()
    with suite() as packages, contextlib.ExitStack() as stack:

        def contender(name: str, where: Environment, said: Narrowing) -> Distant:
            made = Distant(name, where, said, packages, ticks)
            stack.callback(made.close)
            return made

        new = contender(target, here(), narrowing)
        old = contender(
            base, environment, narrowing if base == target else replace(narrowing, convention=None)
        )
        if new.facts["file"] is not None and new.facts["file"] == old.facts["file"]:
            raise ValueError(f"{new.target} and {old.target} are the same file, {new.facts['file']}")
        of_one_kind(new, old)
        if workloads is None:
            workloads = grid(new.kind, narrowing.device, narrowing.dtypes, only)
        todo, left_out = asked(workloads, new, old)
        names = {one.facts["clock"] for one in (new, old)}
        clock = HostClock("wall" if len(names) > 1 else names.pop())
        if machine is None:
            machine = new.fingerprint()
        canary, found = contest(new, old, todo, left_out, clock, rule, seed, progress)
        return Benchmarks(
            target,
            old.target,
            seed,
            rule,
            machine,
            new.environment(),
            version("attn-conformance"),
            monotonic() - begun,
            canary,
            found,
            tuple(left_out),
            elsewhere=("" if base == target else f"--vs {shlex.quote(base)} ") + environment.option,
        )
