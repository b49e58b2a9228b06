"""One case as it is posed to many kernels: arrays and answers are made once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np

from attn_conformance.cases import KernelCase, build, build_upstream
from attn_conformance.gradients import compared
from attn_conformance.judge import Comparison, Failed, NotAsked, compare
from attn_conformance.subject import Array, Subject

NOT_SERVED = "No available kernel"
"""How PyTorch says that a backend does not serve a call."""

Of = Literal["out", "gradients"]
"""What is asked for: the output, or the gradients of q, k and v."""

INPUTS = ("q", "k", "v")

Results = Mapping[str, "Array | None"]
"""What a kernel gave, by name: "out", or the inputs that have gradients."""


class NotServed(Exception):
    """A kernel says that calls of this kind are not for it."""


class Posed(ABC):
    """A case, its call, and what the oracle allows under each arithmetic that was asked for so far."""

    of: ClassVar[Of]

    def __init__(self, case: KernelCase) -> None:
        self.case = case
        self.call = build(case)
        self.answers: dict[str, Any] = {}

    def concerns(self, subject: Subject) -> bool:
        """Whether a kernel claims what is posed; what kernels on CUDA make of empty rows is no matter of rounding."""
        if subject.device == "cuda":
            problem = subject.lower(self.call)
            if not np.broadcast_to(problem.visible, problem.shape).any(-1).all():
                return False
        return self.case.dtype in subject.claims.dtypes

    def results(self, subject: Subject) -> Results | None:
        """What a kernel gives; None if it raises or gives something of another shape; NotServed if it declines."""
        try:
            return self._results(subject.open())
        except (Failed, NotAsked) as raised:  # gradients are not asked of what raises
            if NOT_SERVED in str(raised):
                raise NotServed from raised
            return None

    def compared(self, subject: Subject, results: Results) -> list[Comparison]:
        """How each result stands to what is allowed to this kernel."""
        arithmetic = subject.claims.arithmetic
        if arithmetic not in self.answers:
            self.answers[arithmetic] = self._answer(subject)
        return self._compared(results, self.answers[arithmetic])

    def largest(self, subject: Subject) -> float:
        """A kernel's largest error over limit, infinite if it gives no numbers."""
        results = self.results(subject)
        return inf if results is None else max(c.ratio for c in self.compared(subject, results))

    @abstractmethod
    def _results(self, subject: Subject) -> Results: ...

    @abstractmethod
    def _answer(self, subject: Subject) -> Any: ...

    @abstractmethod
    def _compared(self, results: Results, answer: Any) -> list[Comparison]: ...


class PosedForOutput(Posed):
    """The output is asked for."""

    of = "out"

    def _results(self, subject: Subject) -> Results:
        return {"out": subject.attention(self.call)}

    def _answer(self, subject: Subject) -> Any:
        return subject.answer(self.call)

    def _compared(self, results: Results, answer: Any) -> list[Comparison]:
        out = results["out"]
        assert out is not None
        return [compare(out, answer)]


class PosedForGradients(Posed):
    """The gradients of q, k and v are asked for, from the output gradient of the case."""

    of = "gradients"

    def __init__(self, case: KernelCase) -> None:
        super().__init__(case)
        self.dout = build_upstream(case)

    def concerns(self, subject: Subject) -> bool:
        """Not where eager arithmetic stores the gradient of a weight, which huge values overflow, hidden or not."""
        eager = subject.claims.arithmetic == "eager" and self.case.poison in ("values", "both")
        return super().concerns(subject) and not eager

    def _results(self, subject: Subject) -> Results:
        return subject.gradients(subject.differentiated(self.call, INPUTS), self.dout).gradients

    def _answer(self, subject: Subject) -> Any:
        return subject.answer_gradients(self.call, self.dout, INPUTS)

    def _compared(self, results: Results, answer: Any) -> list[Comparison]:
        found = []
        for name, gradient in answer.items():
            result = results[name]
            found.append(compared(0 * gradient.value if result is None else result, gradient))
        return found


def posed(case: KernelCase, of: Of) -> Posed:
    """The case as it is posed."""
    return PosedForOutput(case) if of == "out" else PosedForGradients(case)
