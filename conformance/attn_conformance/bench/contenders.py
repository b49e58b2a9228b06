"""Contenders: who takes part in a run of benchmarks, in this process or in another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from typing import Any, Literal, Protocol

from attn_conformance.bench.clocks import throttled
from attn_conformance.bench.grids import missing
from attn_conformance.bench.pairs import Side
from attn_conformance.bench.workloads import Workload
from attn_conformance.environment import environment
from attn_conformance.loading import TargetError, place
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject


class Contender(Protocol):
    """An implementation that workloads can be posed to. target, version: as results call it; framework: its name."""

    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str | None: ...  # noqa: D102
    @property
    def kind(self) -> Literal["kernel", "module"]: ...  # noqa: D102
    @property
    def framework(self) -> str: ...  # noqa: D102

    def missing(self, workload: Workload) -> str | None:
        """Why a workload cannot be posed to it, None if it can."""
        ...

    def side(self, workload: Workload, seed: Sequence[int]) -> Side:
        """The workload posed to it; Failed if it refuses to be built. seed: of its inputs."""
        ...

    def copy(self) -> Contender:
        """Another one of the same code, as far from it as two contenders are from each other."""
        ...

    def environment(self) -> Mapping[str, Any]:
        """Versions and settings, as JSON."""
        ...

    def throttled(self) -> str | None:
        """What slows its device down at the moment, as `clocks.throttled` tells."""
        ...


class Here:
    """A target in this process."""

    def __init__(self, target: str, narrowing: Narrowing) -> None:
        """TargetError where it cannot be called."""
        self.subject: Subject
        self.subject, refused = subject(target, narrowing)
        if "OUT-1" in refused:
            raise TargetError(f"{target}: {refused['OUT-1']}")
        self.target, self.version = target, version_of(target)
        self.kind: Literal["kernel", "module"] = self.subject.kind
        self.framework = self.subject.border.name

    def missing(self, workload: Workload) -> str | None:
        """Why a workload cannot be posed to it, None if it can."""
        return missing(workload, self.subject)

    def side(self, workload: Workload, seed: Sequence[int]) -> Side:
        """The workload posed to it; Failed if it refuses to be built."""
        return Side(self.subject, workload, self.version, seed)

    def copy(self) -> Here:
        """Itself: each side opens it afresh."""
        return self

    def environment(self) -> dict[str, Any]:
        """Of this process."""
        return environment(self.subject)

    def throttled(self) -> str | None:
        """What slows the device down."""
        return throttled(self.subject.device)


def version_of(target: str) -> str | None:
    """The version of the distribution that a target comes from, None if it is from none."""
    package = place(target)[0].partition(".")[0]
    distributions = packages_distributions().get(package)
    return version(distributions[0]) if distributions else None
