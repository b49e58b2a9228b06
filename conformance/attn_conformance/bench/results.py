"""What a benchmark run measured and decided, as it is written to a file and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from attn_conformance.bench.plain import plain
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.workloads import Workload

SCHEMA = 1
"""Version of the file: it grows by additions alone."""

Clock = Literal["thread", "wall", "device"]
"""thread: CPU time of the one thread that works, for shared CPUs. wall. device: CUDA events."""


@dataclass(frozen=True)
class Measurement:
    """One implementation on one workload.

    seconds: of each round, by the clock that decides; wall: the same rounds by the wall clock. peak: bytes allocated at
    the most during a call beyond its inputs, None if not known. kernels: what ran, as the framework names it. error:
    the largest error over limit of the outputs that were checked; problem: why the time does not count, if it does not.
    """

    target: str
    version: str | None
    seconds: tuple[float, ...] = ()
    wall: tuple[float, ...] = ()
    peak: int | None = None
    kernels: tuple[str, ...] = ()
    error: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """One workload, measured on one implementation or on two, of which `decision` compares the first with the second.

    base is what the candidate is held against. problem: why there is no decision, where one was asked for, or why it
    does not count. throttled: what slowed the device down meanwhile, "" for nothing, None where nobody tells.
    """

    workload: Workload
    clock: Clock
    candidate: Measurement
    base: Measurement | None = None
    decision: Decision | None = None
    problem: str | None = None
    throttled: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A workload that was not measured, and why."""

    workload: Workload
    reason: str


@dataclass(frozen=True)
class Benchmarks:
    """A run of benchmarks: what was asked, on which machine, and what came of it.

    machine: the fingerprint of `machine.fingerprint`. canary: the decision on two copies of the base (A/A), which has
    to be fine. seconds: of the whole. baseline: the file whose run each benchmark's base is from, None if none is.
    elsewhere: the options by which the base was asked for, where it is from another environment than the candidate.
    """

    candidate: str
    base: str | None
    seed: int
    rule: Rule
    machine: Mapping[str, Any]
    environment: Mapping[str, Any]
    suite: str
    seconds: float
    canary: Decision | None
    benchmarks: tuple[Benchmark, ...]
    left_out: tuple[LeftOut, ...] = ()
    baseline: str | None = None
    elsewhere: str | None = None

    @property
    def against(self) -> str | None:
        """What the candidate is held against, None for nothing."""
        return self.base if self.baseline is None else f"the baseline {self.baseline}"

    def to_json(self) -> dict[str, Any]:
        """The file that `bench --json` writes. JSON has no infinite numbers: null stands for them."""
        data: dict[str, Any] = plain({"bench": SCHEMA} | asdict(self))
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Benchmarks:
        """What `to_json` wrote; ValueError for data of another kind or version, or with other fields."""
        if data.get("bench") != SCHEMA:
            raise ValueError(f"not a file of benchmarks, schema {SCHEMA}")
        try:
            rest = {name: value for name, value in data.items() if name not in ("bench", "rule")}
            rule = Rule.from_json(data["rule"])
            return Benchmarks(
                **{
                    **rest,
                    "rule": rule,
                    "canary": _decision(data["canary"]),
                    "benchmarks": tuple(map(_benchmark, data["benchmarks"])),
                    "left_out": tuple(map(_left_out, data.get("left_out", ()))),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a file of benchmarks: {error}") from error


def _benchmark(data: Mapping[str, Any]) -> Benchmark:
    return Benchmark(
        **{
            **data,
            "workload": Workload.from_json(data["workload"]),
            "candidate": _measurement(data["candidate"]),
            "base": None if data["base"] is None else _measurement(data["base"]),
            "decision": _decision(data["decision"]),
        }
    )


def _left_out(data: Mapping[str, Any]) -> LeftOut:
    return LeftOut(Workload.from_json(data["workload"]), data["reason"])


def _measurement(data: Mapping[str, Any]) -> Measurement:
    listed = {name: tuple(data[name]) for name in ("seconds", "wall", "kernels")}
    return Measurement(**{**data, **listed})


def _decision(data: Mapping[str, Any] | None) -> Decision | None:
    if data is None:
        return None
    return Decision(**{**data, "high": float("inf") if data["high"] is None else data["high"]})
