"""A yardstick: a few tests with fixed inputs, in the manner of a project's own, put to our targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from attn_conformance.judge import Failed, NotAsked
from attn_conformance.mutants import Mutant
from attn_conformance.subject import Subject
from attn_conformance.targets import subject
from attn_reference.claims import Claims

Kind = Literal["kernel", "module"]

Test = Callable[[Subject], bool]
"""Poses what it can to a subject: whether that was anything; raises Failed where the test fails."""


@dataclass(frozen=True)
class Judged:
    """What a yardstick says of a target. posed: whether a test had a call for it; test, message: the first failure."""

    posed: bool
    test: str | None = None
    message: str | None = None

    @property
    def rejected(self) -> bool:
        """Whether a test failed."""
        return self.test is not None


@dataclass(frozen=True)
class Yardstick:
    """Tests in the manner of a project's.

    sources: where those are, repository and path. reach: by kind of target, the requirements whose subject the
    interface under these tests can express, whether the tests look at it or not. dtypes: those that the tests use.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    about: str
    tests: tuple[Test, ...]
    reach: Mapping[Kind, frozenset[str]]
    dtypes: tuple[str, ...]

    def reaches(self, mutant: Mutant) -> bool:
        """Whether the interface can express the calls that a mutant gets wrong: by the requirement named for it."""
        kind = self.reach.get(mutant.kind, frozenset())
        return mutant.requirement in kind and self.serves(mutant.claims)

    def serves(self, claims: Claims) -> bool:
        """Whether the tests use a dtype that is claimed."""
        return bool(set(claims.dtypes) & set(self.dtypes))


def judge(yardstick: Yardstick, target: str) -> Judged:
    """The verdict on a target, by the tests one after the other in one process, up to the first that fails.

    A dtype that is claimed and refused is claimed again: the test that uses it fails. TargetError if nothing works.
    """
    found, refused = subject(target)
    dtypes = tuple(dtype for dtype in refused if dtype in yardstick.dtypes)
    opened = found.claiming(replace(found.claims, dtypes=(*found.claims.dtypes, *dtypes))).open()
    posed = False
    for test in yardstick.tests:
        try:
            posed |= test(opened)
        except (Failed, NotAsked) as failure:
            return Judged(True, test.__name__, str(failure).partition("\n")[0])
    return Judged(posed)
