"""The process of an implementation that is timed in an environment of its own, as its parent orders, in JSON.

It holds the inputs, times each round by its own clock, and judges the results: nothing but numbers goes to and fro.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attn_conformance.bench import machine
from attn_conformance.bench.clocks import Clock, HostClock, clock_for, quiet
from attn_conformance.bench.contenders import Here
from attn_conformance.bench.pairs import Side
from attn_conformance.bench.workloads import Workload
from attn_conformance.endings import described
from attn_conformance.isolation.worker import Channel, Message
from attn_conformance.judge import Failed
from attn_conformance.loading import INSTALLED, TargetError, load, place
from attn_conformance.targets import Narrowing

SUITE = ("attn_conformance", "attn_reference")


def serve(descriptor: int) -> None:
    """Answer what comes through a descriptor until that is closed."""
    channel = Channel(Connection(descriptor))
    with contextlib.suppress(EOFError, OSError):
        order = channel.receive() or {}
        try:
            serving = Serving(order)
        except (TargetError, ValueError) as error:
            channel.send(unjudgeable=str(error))
            return
        channel.send(facts=serving.facts())
        with quiet({serving.here.framework}, serving.device):
            while message := channel.receive():
                channel.send(**serving.answer(message))


class Serving:
    """One implementation, and the workload that is posed to it at the moment."""

    def __init__(self, order: Message) -> None:
        """TargetError or ValueError where it cannot be timed."""
        said: Message = {n: tuple(v) if isinstance(v, list) else v for n, v in order["narrowing"].items()}
        narrowing = Narrowing(**said)
        self.device = narrowing.device
        self.own, self.foreign = (order[name] and Path(order[name]) for name in ("own", "foreign"))
        self.here = Here(order["target"], narrowing)
        self.clocks: dict[str, Clock] = {}
        self.ticks: Callable[[], int] | None = load(order["ticks"]) if order["ticks"] else None
        self.side: Side | None = None
        if problem := self.astray():
            raise ValueError(problem)

    def facts(self) -> Message:
        """What the parent has to know of the implementation."""
        home, _ = place(self.here.target)
        module = None if home.endswith(".py") else importlib.import_module(home)
        return {
            "kind": self.here.kind,
            "framework": self.here.framework,
            "version": self.here.version,
            "file": getattr(module, "__file__", None),
            "clock": self.clock(clock_for({self.here.framework}, self.device).name).name,
        }

    def answer(self, message: Message) -> Message:
        """The answer to a question; failed: the implementation's own fault."""
        try:
            return {"answer": getattr(self, f"on_{message['ask']}")(*message["of"])}
        except Failed as failed:
            return {"failed": str(failed)}
        except Exception as error:
            traceback.print_exc()
            return {"broken": described(error)}

    def clock(self, name: Any) -> Clock:
        """The clock of a name: always the same."""
        if name not in self.clocks:
            ticks = self.ticks
            if ticks is not None:
                self.clocks[name] = HostClock(name, ticks, ticks, ticks)
            elif name == "wall":
                self.clocks[name] = HostClock("wall", time.perf_counter_ns)
            else:
                self.clocks[name] = clock_for({self.here.framework}, self.device)
        return self.clocks[name]

    @property
    def posed(self) -> Side:
        """The side of the workload; KeyError before one is posed."""
        if self.side is None:
            raise KeyError("no workload")
        return self.side

    def on_missing(self, workload: Message) -> str | None:
        """Why a workload cannot be posed."""
        return self.here.missing(Workload.from_json(workload))

    def on_pose(self, workload: Message, seed: Sequence[int]) -> None:
        """Pose a workload in place of the last one."""
        self.side = None
        self.side = self.here.side(Workload.from_json(workload), seed)

    def on_round(self, name: str) -> Message:
        """Time a round."""
        clock = self.clock(name)
        self.posed.round(clock)
        (reading,) = clock.read()
        self.posed.readings.append(reading)
        return asdict(reading)

    def on_begin(self, repeats: int) -> tuple[str, ...]:
        """End the warm-up; the kernels."""
        self.posed.begin(repeats)
        return self.posed.kernels

    def on_measured(self, name: str) -> Message:
        """The verdict on what was kept."""
        measured = asdict(self.posed.measured(self.clock(name)))
        return measured | {"problem": measured["problem"] or self.astray()}

    def on_fingerprint(self) -> Message:
        """Of the machine, as measured here."""
        return machine.fingerprint(self.device, self.here.framework == "torch")

    def on_environment(self) -> Message:
        """Versions and settings."""
        return self.here.environment()

    def on_throttled(self) -> str | None:
        """What slows the device down."""
        return self.here.throttled()

    def astray(self) -> str | None:
        """What code is not that which was asked for, None if all is as it should be."""
        files = {
            name: Path(file).resolve()
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] not in SUITE and (file := getattr(module, "__file__", None))
        }
        if self.foreign is not None:
            beside = [
                name
                for name, file in files.items()
                if file.is_relative_to(self.foreign)
                and not any(file.is_relative_to(folder) for folder in (*INSTALLED, self.own))
            ]
            if beside:
                return f"{', '.join(beside[:3])} came from {self.foreign} as it is, not from the revision"
        if self.own is not None and not any(file.is_relative_to(self.own) for file in files.values()):
            return f"none of its code comes from what was asked for: {self.here.target} is imported from elsewhere"
        return None
