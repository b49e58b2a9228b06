"""The worker: the process in which a target is loaded and called, as the parent orders, in messages of JSON."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attn_conformance.cases import Case
from attn_conformance.endings import when_exhausted
from attn_conformance.explanation import explained
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.judging import Facts
from attn_conformance.loading import TargetError
from attn_conformance.registry import Check, checks
from attn_conformance.results import Row
from attn_conformance.rows import Order, judge
from attn_conformance.stored import Stored
from attn_conformance.targets import Narrowing, subject

Message = dict[str, Any]

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


class Channel:
    """Messages in both directions: JSON, so that nothing that a target's process sends is ever executed."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, **message: Any) -> None:
        """Send a message."""
        self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> Message:
        """The next message; EOFError where the other side is gone, ValueError where it is no message."""
        message = json.loads(self.connection.recv_bytes())
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

    def __call__(self, check: Check, case: Case) -> Failed | None:
        """What is known of a case, else None, the parent being told."""
        stored = Stored(check.name, case)
        if (message := self.known.get(key(stored))) is not None:
            self.met = True
            return Failed(message)
        if self.met and self.settled:
            raise NotAsked("not run: a case before it has ended the process")
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
    connection: Connection,
    output: Connection,
    target: str,
    narrowing: Narrowing,
    memory: float,
    where: tuple[str, Sequence[str], Mapping[str, str]],
) -> None:
    """Load a target, then judge and explain what the parent asks for, until it says no more.

    where: working directory, import path and environment variables of the parent.
    """
    _detach(output, where)
    channel = Channel(connection)
    try:
        found, refused = subject(target, narrowing)
    except (TargetError, ValueError) as error:
        channel.send(unjudgeable=str(error))
        os._exit(0)
    checks()
    if narrowing.device == "cpu":
        _limit_memory(memory)

    def end(said: str) -> None:
        channel.send(exhausted=said)
        os._exit(0)  # memory that a target holds on to would be short in all that comes after

    when_exhausted.append(end)
    channel.send(facts=Facts.of(found, refused, narrowing.options).to_json())
    while True:
        try:
            message = channel.receive()
        except EOFError:
            break
        if "judge" in message:
            announcing = Announcing(channel, message["known"], settled=message["settled"])
            judged = judge(order_from_json(message["judge"]), found, refused, announcing)
            healed = [stored.to_json() for stored in judged.healed]
            name = judged.row.requirement
            channel.send(row={name: judged.row.to_json()}, events=dict(judged.events), healed=healed)
        elif "explain" in message:
            ((name, row),) = message["explain"].items()

            def execute(script: str, arguments: Sequence[str], seconds: float) -> int:
                channel.send(execute=script, arguments=list(arguments), seconds=seconds)
                return int(channel.receive()["status"])

            new = explained(Row.from_json(name, row), found, execute, message["deadly"])
            channel.send(row={name: new.to_json()})
        else:
            break
    # Threads that the target has left running are not waited for.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(0)


def run_script(
    path: str,
    arguments: Sequence[str],
    output: Connection,
    where: tuple[str, Sequence[str], Mapping[str, str]],
) -> None:
    """Run a script as `python PATH ARGUMENTS` does, in a process that starts for it."""
    _detach(output, where)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def _detach(output: Connection, where: tuple[str, Sequence[str], Mapping[str, str]]) -> None:
    """Make this process its own: no keyboard, no terminal, no life after the parent's, no core files."""
    folder, paths, variables = where
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, standard in ((nothing, 0), (output.fileno(), 1), (output.fileno(), 2)):
        os.dup2(source, standard)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=False)
    os.chdir(folder)
    sys.path[:] = paths
    os.environ.update(variables)


def _limit_memory(gibibytes: float) -> None:
    """Let this process hold so much beyond what it holds now; where Linux does not tell how much that is, no limit."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        held = next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (held + int(gibibytes * 2**30), hard))
