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
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar, get_args

from attn_conformance.endings import printable
from attn_conformance.isolation import worker as worker_process
from attn_conformance.isolation.limits import Limits
from attn_conformance.isolation.starting import context, start
from attn_conformance.isolation.worker import Channel, Message, Surroundings, key, order_to_json
from attn_conformance.judging import Facts, GivenUp
from attn_conformance.loading import TargetError
from attn_conformance.results import Row, Status
from attn_conformance.rows import Judged, Order
from attn_conformance.stored import Stored
from attn_conformance.targets import Narrowing
from attn_reference.requirements import load_requirements

Answer = TypeVar("Answer")

NOT_REPEATED = " (not repeatable: in a second process the same case did no harm)"

NONSENSE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading a message raises that the suite has not sent: a target's process may write what it likes."""

HUNG = "did not return"
KILLED = "ended the process by"
"""How the messages of two kinds of death begin."""

FEWER_DEATHS = 3
"""Limit of deaths on CUDA, where a process takes seconds to start."""

KEPT = 2**15
"""Bytes of a process's last words that are kept."""


@dataclass(frozen=True)
class Death:
    """How a process ended. costly: by using up time or memory. case: what it was at, None if that was none."""

    message: str
    costly: bool
    case: Stored | None


class Worker:
    """One process and the talk with it, one question at a time; close() may come from any thread."""

    def __init__(self, target: str, narrowing: Narrowing, limits: Limits) -> None:
        self.limits = limits
        self.memory = limits.memory if narrowing.device == "cpu" else None
        self.context = context(target, narrowing.device)
        ours, theirs = self.context.Pipe()
        self.output = Output(self.context)
        arguments = (theirs, self.output.writer, target, narrowing, limits, surroundings())
        self.process, self.life = start(self.context, worker_process.serve, *arguments)
        theirs.close()
        self.output.begin()
        self.channel = Channel(ours)
        self.script: BaseProcess | None = None
        self.doing = "loading it"
        self.talk = threading.RLock()
        self.ended = False
        self.closed = False

    def ask(self, message: Message, seconds: float, read: Callable[[Message], Answer]) -> Answer | Death:
        """What `read` makes of its answer to a message ({} to await the first).

        Announcements, of cases and of calls while it loads, renew the seconds that it has; the scripts that it asks for
        have as many together. read: may raise what NONSENSE holds.
        """
        case: Stored | None = None
        until = time.monotonic() + seconds
        with self.talk:
            try:
                if message:
                    self.channel.send(**message)
                while True:
                    answer = self.channel.receive(seconds, self.process.sentinel)
                    if answer is None:
                        return self._hung(seconds, case)
                    if "doing" in answer:
                        self.doing = str(answer["doing"])
                    elif "case" in answer:
                        case = Stored.from_json(answer["case"])
                    elif "exhausted" in answer:
                        return self._exhausted(str(answer["exhausted"]), case)
                    elif "lost" in answer:
                        self.close()
                        return Death(f"left the device unusable: {answer['lost']}", costly=False, case=case)
                    elif "execute" in answer:
                        self.channel.send(status=self.execute(answer, until - time.monotonic()))
                    else:
                        return read(answer)
            except (EOFError, OSError):
                return self._died(case)
            except NONSENSE:
                self.close()
                return Death(
                    f"wrote into its connection with the suite{self.output.where()}", costly=False, case=case
                )

    def _hung(self, seconds: float, case: Stored | None) -> Death:
        with contextlib.suppress(OSError):
            if self.process.pid is not None:
                os.kill(self.process.pid, signal.SIGUSR1)  # it says where it is
        time.sleep(0.2)
        self.close()
        return Death(f"{HUNG} within {seconds:g} s{self.output.where()}", costly=True, case=case)

    def _exhausted(self, said: str, case: Stored | None) -> Death:
        self.close()
        how = "ran out of memory" if self.memory is None else f"used up {self.memory:g} GiB of memory"
        return Death(f"{how}: {said}", costly=True, case=case)

    def _died(self, case: Stored | None) -> Death:
        self.process.join(2)
        code = self.process.exitcode
        self.close()
        if code is None:
            how = "closed its connection with the suite"
        elif code < 0:
            how = f"{KILLED} {_signal(-code)}"
        else:
            how = f"ended the process with exit status {code}"
        # SIGKILL is what Linux does where the memory of the machine has run out.
        return Death(f"{how}{self.output.where()}", costly=code == -signal.SIGKILL, case=case)

    def execute(self, request: Message, most: float) -> int:
        """The exit status of a script, run in a process that starts for it; -SIGKILL if it took too long.

        most: seconds that it has, however many are requested.
        """
        text, arguments = str(request["execute"]), [str(argument) for argument in request["arguments"]]
        seconds = min(most, float(request["seconds"]))
        if seconds <= 0:
            return -signal.SIGKILL
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reproducer.py"
            path.write_text(text, encoding="utf-8")
            output = Output(self.context)
            given = (str(path), arguments, output.writer, self.memory, surroundings())
            process, life = start(self.context, worker_process.run_script, *given)
            self.script = process
            output.begin()
            process.join(0 if self.ended else seconds)
            code = process.exitcode
            self.script = None
            _kill(process)
            process.join(5)
            life.close()
            output.close()
            process.close()
        return -signal.SIGKILL if code is None else code

    def close(self) -> None:
        """End the process, whatever it does, and what it has started in its group; give back what it held here."""
        self.ended = True
        for process in (self.process, self.script):
            if process is not None and not self.closed:
                _kill(process)  # so that a thread which waits for it stops waiting, and the talk ends
        with self.talk:
            if self.closed:
                return
            self.closed = True
            self.process.join(5)
            self.life.close()
            self.channel.connection.close()
            self.output.close()
            with contextlib.suppress(ValueError):  # not even SIGKILL has ended it yet
                self.process.close()


class Output:
    """What a process prints: read, so that it never waits, and forgotten but for the last of it."""

    def __init__(self, context: BaseContext) -> None:
        self.reader, self.writer = context.Pipe(duplex=False)
        self.last = b""
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)

    def begin(self) -> None:
        """The process has its end of the pipe by now."""
        self.writer.close()
        self.thread.start()

    def _read(self) -> None:
        """Read until nobody holds the other end, or, since what the process has started may hold it, until told."""
        with self.reader:
            while not self.enough.is_set():
                if not self.reader.poll(0.2):
                    continue
                if not (data := os.read(self.reader.fileno(), KEPT)):
                    break
                self.last = (self.last + data)[-KEPT:]

    def where(self) -> str:
        """Where the process was when it ended, from what Python's faulthandler has printed."""
        self.thread.join(0.5)
        lines = self.last.decode("utf-8", "replace").splitlines()
        own = str(Path(__file__).parents[1])
        frames = [line.strip() for line in lines if line.startswith('  File "')]
        theirs = [frame for frame in frames if own not in frame][:2]
        return "".join(f"\nin {printable(frame.removeprefix('File '))}" for frame in theirs)

    def close(self) -> None:
        """Read no more."""
        self.thread.join(0.5)
        self.enough.set()
        self.thread.join()


class Workers:
    """A target in processes of its own: as many as threads ask at once, each replaced when it ends."""

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
        self.repeated: set[str] = set()
        self.all: list[Worker] = []
        self.idle: list[Worker] = []
        self.closed = False
        atexit.register(self.close)
        try:
            worker, self.facts = self._start()
        except BaseException:
            self.close()
            raise
        self.idle.append(worker)

    def judge(self, order: Order) -> Judged:
        """Judge one requirement; GivenUp after too much that used up time or memory, and once closed."""
        known: dict[str, Death] = {}
        first: Stored | None = None
        # What makes several rows end their process is made smaller in the first of them alone.
        deaths = self.limits.deaths if self.fatal_rows == 0 and order.shrink else 0
        if self.narrowing.device == "cuda":
            deaths = min(deaths, FEWER_DEATHS)
        settled = False
        said = ""
        for _ in range(deaths + 3):
            if self.costs >= self.limits.costs and first is None:
                raise GivenUp
            try:
                answer = self._judged(order, known, settled=settled)
            except TargetError as error:
                if first is None:
                    return Judged(
                        replace(self._failed(order, None, f"not judged: {error}"), status="error"), {}
                    )
                break
            if not isinstance(answer, Death):
                judged, met = answer
                return self._complete(order, judged, None if met else first, known)
            if answer.case is None:
                said = f"{answer.message}, before any case"
                break
            first = first or answer.case
            known[key(answer.case)] = answer
            settled = answer.costly or len(known) > deaths
        self.fatal_rows += order.shrink
        return Judged(self._failed(order, first, said if first is None else known[key(first)].message), {})

    def close(self) -> None:
        """End all processes; a thread that is asking gets GivenUp."""
        self.closed = True
        for worker in list(self.all):
            worker.close()
        self.all.clear()
        self.idle.clear()
        atexit.unregister(self.close)

    def _complete(self, order: Order, judged: Judged, lost: Stored | None, known: dict[str, Death]) -> Judged:
        """The judgement with what the parent alone knows. lost: a deadly case that was not drawn in later processes."""
        row = judged.row
        if lost is not None and row.status in ("passed", "skipped"):
            row = replace(self._failed(order, lost, known[key(lost)].message), level=row.level)
        stored = Stored.of(row)
        death = None if stored is None else known.get(key(stored))
        if stored is not None and death is not None:
            self.fatal_rows += order.shrink
            if not self._repeats(order, stored, death):
                row = replace(row, message=death.message + NOT_REPEATED)
        if self.explain and order.shrink and stored is not None:
            row = self._explained(row, death)
        return replace(judged, row=row)

    def _repeats(self, order: Order, stored: Stored, death: Death) -> bool:
        """Whether a case that has ended a process ends another one, too.

        Not tried, but taken for granted, where that would cost much, and where another case has ended two processes in
        the same way and place.
        """
        if death.costly or death.message in self.repeated:
            return True
        try:
            answer = self._judged(replace(order, stored=(stored,), replay=True), {}, settled=False)
        except TargetError:
            return True
        if not isinstance(answer, Death):
            return answer[0].row.status == "failed"  # in another way
        self.repeated.add(death.message)
        return True

    def _explained(self, row: Row, death: Death | None) -> Row:
        """The row with what only a further look gives; as it is, if that ends the process."""
        deadly = None
        if death is not None:
            if not death.message.startswith((HUNG, KILLED)):
                return replace(row, unproved="a script that ended like this would prove nothing")
            deadly = "hang" if death.message.startswith(HUNG) else "crash"
            if deadly == "hang" and self.fatal_rows > 1:
                return replace(
                    row, unproved="it takes half a minute, and was written for the first such failure"
                )
        order = {"explain": {row.requirement: row.to_json()}, "deadly": deadly}
        try:
            answer = self._ask(order, 4 * self.limits.call, partial(_row, row.requirement))
        except TargetError:
            return row
        return row if isinstance(answer, Death) else answer

    def _failed(self, order: Order, case: Stored | None, message: str) -> Row:
        """A row of which no process has lived to tell."""
        level = load_requirements()[order.requirement].level
        row = Row(order.requirement, level, "failed", message=message)
        if case is None:
            return row
        return replace(row, examples=1, counterexample=case.case.to_json(), check=case.check)

    def _judged(self, order: Order, known: dict[str, Death], *, settled: bool) -> tuple[Judged, bool] | Death:
        """What a process says to an order, given what others have died of."""
        told = {case: death.message for case, death in known.items()}
        message = {"judge": order_to_json(order), "known": told, "settled": settled}
        return self._ask(message, self.limits.call, partial(_judgement, order))

    def _ask(self, message: Message, seconds: float, read: Callable[[Message], Answer]) -> Answer | Death:
        """Ask a process that is idle, or a new one: TargetError if that cannot load the target, GivenUp once closed."""
        try:
            worker = self.idle.pop()
        except IndexError:
            worker, _ = self._start()
        answer = worker.ask(message, seconds, read)
        if self.closed:
            raise GivenUp
        if isinstance(answer, Death):
            self.costs += answer.costly
            self._forget(worker)
        else:
            self.idle.append(worker)
        return answer

    def _start(self) -> tuple[Worker, Facts]:
        worker = Worker(self.target, self.narrowing, self.limits)
        self.all.append(worker)
        if self.closed:  # by another thread, which may have missed this one
            worker.close()
            raise GivenUp
        answer = worker.ask({}, self.limits.load, _facts)
        if self.closed:
            raise GivenUp
        if isinstance(answer, Facts):
            return worker, answer
        worker.close()
        self._forget(worker)
        if isinstance(answer, Death):
            self.costs += answer.costly
            raise TargetError(f"{self.target}: {worker.doing} {answer.message}")
        raise TargetError(answer)

    def _forget(self, worker: Worker) -> None:
        with contextlib.suppress(ValueError):  # close() of another thread was quicker
            self.all.remove(worker)


def _facts(answer: Message) -> Facts | str:
    """The facts of a target, or why it cannot be judged."""
    return str(answer["unjudgeable"]) if "unjudgeable" in answer else Facts.from_json(answer["facts"])


def _judgement(order: Order, answer: Message) -> tuple[Judged, bool]:
    """What came of an order, and whether a case came again that had ended a process."""
    row = _row(order.requirement, answer)
    healed = tuple(Stored.from_json(stored) for stored in answer["healed"])
    rests = tuple(tuple(map(str, names)) for names in answer["rests"])
    return Judged(row, dict(answer["events"]), healed, rests), bool(answer["met"])


def _row(requirement: str, answer: Message) -> Row:
    """The row of a requirement in an answer: another's would be that of a process which the target has forked."""
    row = Row.from_json(requirement, answer["row"][requirement])
    if row.status not in get_args(Status):
        raise ValueError("not a status")
    Stored.of(row)
    return row


def surroundings() -> Surroundings:
    """Those of this process."""
    return os.getcwd(), list(sys.path), dict(os.environ)


def _kill(process: BaseProcess) -> None:
    """End a process, and all that it has started in its group."""
    with contextlib.suppress(OSError, ValueError):
        if process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError, ValueError):
        if process.is_alive():  # it has no group of its own yet
            process.kill()


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return {"SIGSEGV": "SIGSEGV (segmentation fault)", "SIGFPE": "SIGFPE (arithmetic error)"}.get(name, name)
