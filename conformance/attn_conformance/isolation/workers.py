"""Workers: a target judged in processes of its own; one that ends or hangs is a finding, and another takes over."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from attn_conformance.isolation import worker as worker_process
from attn_conformance.isolation.limits import Limits
from attn_conformance.isolation.starting import context, start
from attn_conformance.isolation.worker import Channel, Message, key, order_to_json
from attn_conformance.judging import Facts, GivenUp
from attn_conformance.loading import TargetError
from attn_conformance.results import Row
from attn_conformance.rows import Judged, Order
from attn_conformance.stored import Stored
from attn_conformance.targets import Narrowing
from attn_reference.requirements import load_requirements

NOT_REPEATED = " (not repeatable: in a second process the same case did no harm)"

KEPT = 2**15
"""Bytes of a process's last words that are kept."""


@dataclass(frozen=True)
class Death:
    """How a process ended. costly: by using up time or memory. case: what it was at, as JSON; None if that was none."""

    message: str
    costly: bool
    case: Message | None


class Worker:
    """One process and the talk with it."""

    def __init__(self, target: str, narrowing: Narrowing, limits: Limits) -> None:
        self.limits = limits
        self.context = context(target, narrowing.device)
        ours, theirs = self.context.Pipe()
        self.output = Output(self.context)
        arguments = (theirs, self.output.writer, target, narrowing, limits.memory, surroundings())
        self.process = start(self.context, worker_process.serve, *arguments)
        theirs.close()
        self.output.begin()
        self.channel = Channel(ours)
        self.dead = False

    def ask(self, message: Message, seconds: float) -> Message | Death:
        """Its answer to a message ({} to await the first); announcements of cases renew the time it has."""
        case: Message | None = None
        try:
            if message:
                self.channel.send(**message)
            while True:
                answer = self._receive(seconds)
                if answer is None:
                    return self._hung(seconds, case)
                if "case" in answer:
                    case = answer["case"]
                elif "exhausted" in answer:
                    self.close()
                    return Death(
                        f"used up {self.limits.memory:g} GiB of memory: {answer['exhausted']}", True, case
                    )
                elif "execute" in answer:
                    self.channel.send(status=self.execute(answer))
                else:
                    return answer
        except (EOFError, OSError, ValueError, KeyError):
            return self._died(case)

    def _receive(self, seconds: float) -> Message | None:
        """The next message, None if none came in time; EOFError if the process has ended."""
        ready = wait([self.channel.connection, self.process.sentinel], seconds)
        if not ready:
            return None
        if not self.channel.connection.poll():
            raise EOFError
        return self.channel.receive()

    def _hung(self, seconds: float, case: Message | None) -> Death:
        with contextlib.suppress(OSError):
            os.kill(self.process.pid or 0, signal.SIGUSR1)  # it says where it is
        time.sleep(0.2)
        self.close()
        return Death(f"did not return within {seconds:g} s{self.output.where()}", True, case)

    def _died(self, case: Message | None) -> Death:
        self.process.join(2)
        code = self.process.exitcode
        self.close()
        if code is None:
            how = "closed its connection with the suite"
        elif code < 0:
            how = f"ended the process by {_signal(-code)}"
        else:
            how = f"ended the process with exit status {code}"
        return Death(f"{how}{self.output.where()}", False, case)

    def execute(self, request: Message) -> int:
        """The exit status of a script, run in a process that starts for it; -SIGKILL if it took too long."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reproducer.py"
            path.write_text(request["execute"], encoding="utf-8")
            output = Output(self.context)
            arguments = (str(path), request["arguments"], output.writer, surroundings())
            process = start(self.context, worker_process.run_script, *arguments)
            output.begin()
            process.join(request["seconds"])
            code = process.exitcode
            _kill(process)
            process.join(2)
            output.close()
            process.close()
        return -signal.SIGKILL if code is None else code

    def close(self) -> None:
        """End the process, whatever it does, and all that it has started."""
        if self.dead:
            return
        self.dead = True
        with contextlib.suppress(OSError, ValueError):
            if self.process.is_alive():
                self.channel.send(end=True)
                self.process.join(1)
        _kill(self.process)
        self.process.join(5)
        self.channel.connection.close()
        self.output.close()


class Output:
    """What a process prints: read, so that it never waits, and forgotten but for the last of it."""

    def __init__(self, context: BaseContext) -> None:
        self.reader, self.writer = context.Pipe(duplex=False)
        self.last = b""
        self.thread = threading.Thread(target=self._read, daemon=True)

    def begin(self) -> None:
        """The process has its end of the pipe by now."""
        self.writer.close()
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self.reader.fileno(), KEPT):
                self.last = (self.last + data)[-KEPT:]

    def where(self) -> str:
        """Where the process was when it ended, from what Python's faulthandler has printed."""
        self.thread.join(0.5)
        lines = self.last.decode("utf-8", "replace").splitlines()
        own = str(Path(__file__).parents[1])
        frames = [line.strip() for line in lines if line.startswith('  File "')]
        theirs = [frame for frame in frames if own not in frame][:2]
        return "".join(f"\nin {frame.removeprefix('File ')}" for frame in theirs)

    def close(self) -> None:
        """Read no more."""
        self.thread.join(0.5)
        if (
            not self.thread.is_alive()
        ):  # else something that the process has started still holds the other end
            self.reader.close()


class Workers:
    """A target in processes of its own: one for each thread that asks, replaced when it ends."""

    def __init__(
        self,
        target: str,
        narrowing: Narrowing = Narrowing(),
        limits: Limits = Limits(),
        *,
        explain: bool = True,
    ) -> None:
        """Load the target; TargetError if it cannot be. explain: whether failures get a likely cause and a script."""
        self.target = target
        self.narrowing = narrowing
        self.limits = limits
        self.explain = explain
        self.costs = 0
        self.fatal_rows = 0
        self.mine = threading.local()
        self.all: list[Worker] = []
        atexit.register(self.close)
        self.facts: Facts = self._start()

    def judge(self, order: Order) -> Judged:
        """Judge one requirement; GivenUp after too many that used up time or memory."""
        if self.costs >= self.limits.costs:
            raise GivenUp
        known: dict[str, str] = {}
        first: Stored | None = None
        # What makes several rows end their process is made smaller in the first of them alone.
        deaths = self.limits.deaths if self.fatal_rows < 2 else 0
        settled = False
        said = ""
        for _ in range(deaths + 3):
            message = {"judge": order_to_json(order), "known": known, "settled": settled}
            try:
                answer = self._worker().ask(message, self.limits.call)
            except TargetError as error:
                return Judged(replace(self._failed(order, None, f"not judged: {error}"), status="error"), {})
            if not isinstance(answer, Death):
                return self._complete(answer, first, known)
            self.costs += answer.costly
            said = answer.message
            if answer.case is None:
                break
            case = Stored.from_json(answer.case)
            if first is None:
                first = case
                self.fatal_rows += 1
            known[key(case)] = answer.message
            settled = answer.costly or len(known) > deaths
        text = f"{said}, before any case" if first is None else known[key(first)] + NOT_REPEATED
        return Judged(self._failed(order, first, text), {})

    def close(self) -> None:
        """End all processes."""
        for worker in self.all:
            worker.close()
        self.all.clear()
        atexit.unregister(self.close)

    def _complete(self, answer: Message, first: Stored | None, known: dict[str, str]) -> Judged:
        ((name, data),) = answer["row"].items()
        row = Row.from_json(name, data)
        if first is not None and row.status in ("passed", "skipped"):
            row = replace(
                row,
                status="failed",
                message=known[key(first)] + NOT_REPEATED,
                counterexample=first.case.to_json(),
                check=first.check,
            )
        if self.explain and row.status == "failed" and row.counterexample is not None:
            row = self._explained(row, known)
        healed = tuple(Stored.from_json(stored) for stored in answer["healed"])
        return Judged(row, answer["events"], healed)

    def _explained(self, row: Row, known: dict[str, str]) -> Row:
        """The row with what only a further look gives; as it is, if that ends the process."""
        message = (row.message or "").removesuffix(NOT_REPEATED)
        deadly = None
        if message in known.values():
            deadly = "hang" if message.startswith("did not return") else "crash"
        order = {"explain": {row.requirement: row.to_json()}, "deadly": deadly}
        try:
            answer = self._worker().ask(order, 4 * self.limits.call)
        except TargetError:
            return row
        if isinstance(answer, Death) or "row" not in answer:
            return row
        ((name, data),) = answer["row"].items()
        return Row.from_json(name, data)

    def _failed(self, order: Order, case: Stored | None, message: str) -> Row:
        """A row of which no process has lived to tell."""
        level = load_requirements()[order.requirement].level
        row = Row(order.requirement, level, "failed", message=message)
        if case is None:
            return row
        return replace(row, examples=1, counterexample=case.case.to_json(), check=case.check)

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self.mine, "worker", None)
        if worker is None or worker.dead:
            self._start()
            worker = self.mine.worker
        return worker

    def _start(self) -> Facts:
        worker = Worker(self.target, self.narrowing, self.limits)
        self.mine.worker = worker
        self.all.append(worker)
        answer = worker.ask({}, self.limits.load)
        if not isinstance(answer, Death) and "facts" in answer:
            return Facts.from_json(answer["facts"])
        worker.close()
        if isinstance(answer, Death):
            raise TargetError(f"{self.target}: loading it {answer.message}")
        raise TargetError(answer.get("unjudgeable", "its process sent nonsense"))


def surroundings() -> tuple[str, Sequence[str], dict[str, str]]:
    """Working directory, import path and environment variables of this process."""
    return os.getcwd(), list(sys.path), dict(os.environ)


def _kill(process: BaseProcess) -> None:
    """End a process, and all that it has started and not let go."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    with contextlib.suppress(OSError, ValueError):
        if process.is_alive():
            process.kill()


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return {"SIGSEGV": "SIGSEGV (segmentation fault)", "SIGFPE": "SIGFPE (arithmetic error)"}.get(name, name)
