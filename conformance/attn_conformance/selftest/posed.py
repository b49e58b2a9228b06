"""One case as it is posed to many kernels: arrays and answers are made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

from attn_conformance.cases import Call, KernelCase, build
from attn_conformance.judge import Answer, Comparison, Failed, compare
from attn_conformance.subject import Array, Subject
from attn_reference.claims import Arithmetic


@dataclass(frozen=True, eq=False)
class Posed:
    """A case, its call, and what the oracle allows under each arithmetic that was asked for so far."""

    case: KernelCase
    call: Call
    answers: dict[Arithmetic, Answer] = field(default_factory=dict)
    of: ClassVar[str] = "out"

    @staticmethod
    def pose(case: KernelCase) -> Posed:
        """The case, posed."""
        return Posed(case, build(case))

    def results(self, subject: Subject) -> Mapping[str, Array] | None:
        """What a kernel gives, by name; None if it raises or gives something of another shape."""
        try:
            return {"out": subject.open().attention(self.call)}
        except Failed:
            return None

    def compared(self, subject: Subject, results: Mapping[str, Array]) -> list[Comparison]:
        """How each result stands to what is allowed to this kernel."""
        arithmetic = subject.claims.arithmetic
        if arithmetic not in self.answers:
            self.answers[arithmetic] = subject.answer(self.call)
        return [compare(results["out"], self.answers[arithmetic])]

    def largest(self, subject: Subject) -> float:
        """A kernel's largest error over limit, infinite if it gives no numbers."""
        results = self.results(subject)
        return inf if results is None else max(c.ratio for c in self.compared(subject, results))
