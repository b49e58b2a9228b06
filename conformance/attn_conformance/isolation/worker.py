"""The worker: the process in which a target is loaded and called, as the parent orders, in messages of JSON."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from attn_conformance.cases import Case
from attn_conformance.endings import out_of_memory, over, when_over
from attn_conformance.explanation import explained
from attn_conformance.isolation.limits import Limits
from attn_conformance.judge import Deadly, NotAsked
from attn_conformance.judging import Facts, judged
from attn_conformance.loading import TargetError
from attn_conformance.registry import Check, checks
from attn_conformance.results import Row
from attn_conformance.rows import Order
from attn_conformance.stored import Stored
from attn_conformance.targets import Narrowing, subject

Message = dict[str, Any]

Surroundings = tuple[str, Sequence[str], Mapping[str, str]]
"""Working directory, import path and environment variables."""

LARGEST = 2**24
"""Bytes of a message that are read: far more than the suite itself sends."""


class Channel:
    """Messages in both directions: lines of JSON, which the other side can neither execute here nor break off.

    What has arrived is read, and no read waits for the rest: a target's process may write what it likes.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arrived = b""

    def send(self, **message: Any) -> None:
        """Send a message; OSError where the other side is gone."""
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.connection.fileno(), data) :]

    def receive(self, seconds: float | None = None, *ends: int) -> Message | None:
        """The next message, None if it does not come in time.

        ends: descriptors that become ready when the other side ends, which others may hold open. EOFError where it has
        ended, ValueError for what is no message.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self.arrived:
            ready = wait(
                [self.connection, *ends], None if until is None else max(0, until - time.monotonic())
            )
            if not ready:
                return None
            if self.connection not in ready or not (data := os.read(self.connection.fileno(), 2**16)):
                raise EOFError
            self.arrived += data
            if len(self.arrived) > LARGEST:
                raise ValueError("too long for a message")
        line, _, self.arrived = self.arrived.partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not a message")
        return message


class Announcing:
    """Tells the parent of each case before it is run. known: what earlier processes have died of, by `key`.

    settled: once such a case has come, no other is run: the row ends with it as it is.
    """

    def __init__(self, channel: Channel, known: Mapping[str, str], *, settled: bool) -> None:
        self.channel = channel
        self.known = known
        self.settled = settled
        self.met = False

    def __call__(self, check: Check, case: Case) -> Deadly | None:
        """What is known of a case, else None, the parent being told."""
        stored = Stored(check.name, case)
        if (message := self.known.get(key(stored))) is not None:
            self.met = True
            return Deadly(message)
        if self.met and self.settled:
            raise NotAsked("not run: a case before it has ended the process")
        if self.channel.connection.closed:  # in a fork that the target has made outside of a call
            os._exit(1)
        self.channel.send(case=stored.to_json())
        return None


def key(stored: Stored) -> str:
    """A case as a text that is the same in every process."""
    return json.dumps(stored.to_json(), sort_keys=True)


def order_to_json(order: Order) -> Message:
    """An order as plain data."""
    return asdict(order) | {"stored": [stored.to_json() for stored in order.stored]}


def order_from_json(data: Message) -> Order:
    """The order that `order_to_json` wrote."""
    fields: Message = data | {"stored": tuple(Stored.from_json(stored) for stored in data["stored"])}
    return Order(**fields)


def serve(
    life: Connection,
    connection: Connection,
    output: Connection,
    target: str,
    narrowing: Narrowing,
    limits: Limits,
    where: Surroundings,
) -> None:
    """Load a target, then judge and explain what the parent asks for, for as long as it is there.

    life: of the parent, as `start` gives it. where: the surroundings of the parent.
    """
    _detach(life, output, where)
    channel = Channel(connection)
    # A fork that the target makes, and that returns from its call, must not answer in this process's place.
    os.register_at_fork(after_in_child=connection.close)
    if narrowing.device == "cpu":
        _limit_memory(max(limits.memory, Limits.memory))
    try:
        found, refused = subject(target, narrowing, lambda doing: channel.send(doing=doing))
    except (TargetError, ValueError) as error:
        channel.send(unjudgeable=str(error))
        os._exit(0)
    checks()
    if narrowing.device == "cpu":
        _limit_memory(limits.memory)

    def end(said: str) -> None:
        channel.send(**{"exhausted" if out_of_memory(said) else "lost": said})
        os._exit(0)  # what is gone would be lacking in all that comes after

    when_over.append(end)
    channel.send(facts=Facts.of(found, refused, narrowing.options).to_json())

    def execute(script: str, arguments: Sequence[str], seconds: float) -> int:
        channel.send(execute=script, arguments=list(arguments), seconds=seconds)
        return int((channel.receive() or {})["status"])

    with contextlib.suppress(EOFError):
        while message := channel.receive():
            if "judge" in message:
                announcing = Announcing(channel, message["known"], settled=message["settled"])
                made = judged(order_from_json(message["judge"]), found, refused, announcing)
                name, row = made.row.requirement, made.row
                if row.status == "error" and over(row.message or ""):
                    # The suite had no memory left, or met what a call did to the device.
                    end(row.message or "")
                healed = [stored.to_json() for stored in made.healed]
                events = dict(made.events)
                told = {"events": events, "healed": healed, "rests": list(made.rests), "met": announcing.met}
                channel.send(row={name: row.to_json()}, **told)
            else:
                ((name, data),) = message["explain"].items()
                row = explained(Row.from_json(name, data), found, execute, message["deadly"])
                channel.send(row={name: row.to_json()})
    os._exit(0)  # threads that the target has left running are not waited for


def run_script(
    life: Connection,
    path: str,
    arguments: Sequence[str],
    output: Connection,
    memory: float | None,
    where: Surroundings,
) -> None:
    """Run a script as `python PATH ARGUMENTS` does, in a process that starts for it.

    memory: GiB that it may hold beyond what the process holds already, None for no limit. The others: as for `serve`.
    """
    _detach(life, output, where)
    if memory is not None:
        _limit_memory(memory)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def _detach(life: Connection, output: Connection, where: Surroundings) -> None:
    """Make this process its own: no keyboard, no terminal, no life after the parent's, no core files."""
    folder, paths, variables = where
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(life)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, standard in ((nothing, 0), (output.fileno(), 1), (output.fileno(), 2)):
        os.dup2(source, standard)
    faulthandler.enable(file=2, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=False)
    os.chdir(folder)
    sys.path[:] = paths
    os.environ.clear()
    os.environ.update(variables)


def _end_with(life: Connection) -> None:
    """Have the system kill this process, and all in its group, when the other end of a pipe is closed.

    The signal of a parent's death would not do: the parent is the fork server, which outlives the judging process for
    as long as a worker does.
    """
    if sys.platform != "linux":
        return
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if life.poll():  # it was closed before that
        os._exit(1)


def _limit_memory(gibibytes: float) -> None:
    """Let this process hold so much beyond what it holds now; where Linux does not tell how much that is, no limit."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        held = next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (held + int(gibibytes * 2**30), hard))
