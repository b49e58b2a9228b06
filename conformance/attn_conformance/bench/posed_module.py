"""A workload posed to a module: one call of forward, with its gradients, or a step on a warm cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from attn_conformance.bench.inputs import Drawn, pool
from attn_conformance.bench.posed import PREFIX, Posed, Sample, padding, shaped, within
from attn_conformance.bench.workloads import CACHED, Workload
from attn_conformance.borders import Natives
from attn_conformance.cases.forward import draw_params
from attn_conformance.gradients import ask_gradients, compared
from attn_conformance.judge import Array, Failed, ask_module, compare
from attn_conformance.module_subject import ModuleSubject, leaves
from attn_conformance.subject import blaming
from attn_reference import lower_forward

GROWTH = 8
"""A cache of S keys takes tokens until it has grown by one part in so many, or by one round; then one of S begins.

So a buffer with room to spare is copied as seldom as in a real decoding, and one that is copied at every step each
time. Both sides of a comparison make the same steps in every round.
"""

MOST_SCORES = 2**22
"""Largest B H T S of which gradients are judged whole."""


class PosedModule(Posed[ModuleSubject]):
    """A module with random weights, which stay; the tokens are fresh.

    With T = 1 a causal triangle hides nothing, so that a module without causality decodes without it.
    """

    def __init__(self, subject: ModuleSubject, workload: Workload, rng: np.random.Generator) -> None:
        """rng: draws the inputs, and which results and rows are judged."""
        self.subject = subject
        self.workload = w = workload
        size = w.H * w.D
        params = draw_params(rng, size, w.dtype)
        self.params = {n: a for n, a in params.items() if subject.key_bias or n != "key.bias"}
        causal = w.is_causal and (w.work != "decode" or "causal" in subject.claims.features)
        self.handle = subject.build(self.params, w.H, causal)
        shapes: dict[str, tuple[int, ...]] = {"x": (w.B, w.T, size)}
        if w.work == "cross":
            shapes["xa"] = (w.B, w.S, size)
        if w.work == "masked":
            shapes["mask"] = (w.T, w.S)
        if w.work == "backward":
            shapes["dout"] = shapes["x"]
        if w.work in CACHED:
            shapes[PREFIX] = (w.B, w.S - (w.work == "decode"), size)
        self.pool = pool(subject.border, subject.device, shapes, w.dtype, rng)
        mask = padding(w)
        self.fixed = {} if mask is None else {"mask": subject.border.asarray(mask, subject.device)}
        self.session: Any = None
        self.prefix = 0  # which window the session began with
        self.other: Any = None  # the other sequence, whose keys it holds
        self.tokens: list[Drawn] = []
        super().__init__(rng)

    def refresh(self) -> None:
        """Other tokens; and another cache, once this one has grown enough."""
        before = len(self.tokens)
        if self.workload.work in CACHED:
            most = max(self.workload.S // GROWTH, len(self.buffers))
            if self.session is None or before + len(self.buffers) > most:
                self.session, self.tokens = None, []
        super().refresh()
        if self.workload.work in CACHED:
            self.tokens += self.drawn

    def bound(self, natives: Natives) -> Callable[[], Any]:
        """One call of forward, with a backward pass, or one step."""
        implementation, mask = self.subject.implementation, natives.get("mask")
        if self.workload.work in CACHED:
            if self.session is None:
                self.prefix = int(self.pool.draw(self.rng)[PREFIX])
                self.session = self._warm()
            across = () if self.other is None else (self.other,)
            return partial(self.session.step, natives["x"], *across)
        forward = partial(implementation.forward, self.handle, natives["x"], natives.get("xa"), mask)
        return self._with_gradients(natives, forward) if self.workload.work == "backward" else forward

    def _warm(self) -> Any:
        """A session that holds S - 1 keys, or all S of the other sequence."""
        session, prefix = self.subject.session(self.handle), self.pool.array({PREFIX: self.prefix}, PREFIX)
        if prefix.shape[1] == 0:
            return session
        tokens = self.subject.border.asarray(prefix, self.subject.device)
        with blaming(), self.subject.border.grad_mode("off"):
            if self.workload.work == "decode":
                session.step(tokens)
            else:
                self.other = tokens
                session.step(tokens[:, :1], tokens)
        return session

    def _with_gradients(self, natives: Natives, forward: Callable[[], Any]) -> Callable[[], Any]:
        own: Any = getattr(self.subject.implementation, "gradients", None)
        if own is not None:
            given = {"x": natives["x"]}
            return lambda: (forward(), dict(own(self.handle, given, natives["dout"])))
        border, parameters = self.subject.border, leaves(self.handle)
        known = {"x": natives["x"], **{n: parameters[n] for n in self.params if n in parameters}}

        def function(given: Natives) -> Any:
            return self.subject.implementation.forward(self.handle, given["x"], None, None)

        def both() -> tuple[Any, dict[str, Any]]:
            out, pull = border.vjp(function, known)
            return out, pull(natives["dout"])

        return both

    def unpacked(self, result: Any) -> dict[str, Any]:
        """The output, and the gradients of x and the parameters."""
        if self.workload.work != "backward":
            return {"out": result}
        out, gradients = result
        if gradients.get("x") is None:
            raise Failed("no gradient came back for x")
        return {"out": out, **{name: g for name, g in gradients.items() if g is not None}}

    def earlier(self, number: int) -> tuple[Drawn, ...]:
        """The prefix of the cache, then the tokens since."""
        if self.workload.work not in CACHED:
            return ()
        until = len(self.tokens) - len(self.drawn) + number if self.workload.work == "decode" else 0
        return ({PREFIX: self.prefix}, *self.tokens[:until])

    def judge(self, sample: Sample) -> float:
        """Rows of one batch element, since the bound of a large module takes seconds; and the gradients.

        All of them, where the batch is small enough, else that of x in one element: those of the parameters sum over
        the batch, and are judged in a call on this element alone, which comes after.
        """
        w, b = self.workload, int(self.rng.integers(self.workload.B))
        out = shaped(self.result(sample, "out"), (w.B, w.T, w.H * w.D))
        rows, x = self.rows(w.T), self.pool.array(sample.drawn, "x")[b : b + 1]
        mask, source = self._mask(sample, b, rows), self._source(sample, b, x)
        problem = lower_forward(self.params, x[:, rows], source, n_head=w.H, mask=mask)
        answer = ask_module(problem, w.dtype, self.subject.claims.arithmetic)
        error = within(compare(out[b : b + 1, None, rows], answer), f"the output of element {b}")
        return max(error, self._judge_gradients(sample)) if w.work == "backward" else error

    def _source(self, sample: Sample, b: int, x: Array) -> Array:
        """What keys and values are projected from, (1, S, n_state)."""
        if self.workload.work == "cross":
            return self.pool.array(sample.drawn, "xa")[b : b + 1]
        if self.workload.work not in CACHED:
            return x
        prefix, *tokens = sample.earlier
        if self.workload.work == "cross-decode":
            return self.pool.array(prefix, PREFIX)[b : b + 1]
        parts = [self.pool.array(prefix, PREFIX)] + [self.pool.array(t, "x") for t in tokens]
        return np.concatenate([part[b : b + 1] for part in parts] + [x], axis=1)

    def _mask(self, sample: Sample, b: int, rows: Array) -> Array | None:
        """The mask of some rows of an element; that of causality where there is no other."""
        w = self.workload
        if w.work == "masked":
            return self.pool.array(sample.drawn, "mask")[rows]
        if (hidden := padding(w)) is not None:
            return hidden[b : b + 1]
        if w.is_causal and w.work != "decode":
            return np.asarray(np.arange(w.S) <= rows[:, None] + (w.S - w.T))
        return None

    def _judge_gradients(self, sample: Sample) -> float:
        w, b = self.workload, int(self.rng.integers(self.workload.B))
        whole = w.B == 1 or w.B * w.H * w.T * w.S <= MOST_SCORES
        part = slice(None) if whole else slice(b, b + 1)
        x, dout = (self.pool.array(sample.drawn, name)[part] for name in ("x", "dout"))
        problem = lower_forward(self.params, x, x, n_head=w.H, is_causal=w.is_causal)
        arithmetic = self.subject.claims.arithmetic
        inputs = {"x": x, **self.params}
        asked = ask_gradients(problem, dout.astype(np.float64), inputs, w.dtype, arithmetic)
        found = {} if whole else self._alone(x, dout)
        found |= {name: self.result(sample, name) for name in (sample.results if whole else ("x",))}
        found["x"] = shaped(found["x"], (w.B, w.T, w.H * w.D))[part]
        largest = 0.0
        for name, gradient in asked.items():
            if name not in found:
                raise Failed(f"no gradient came back for {name}")
            comparison = compared(shaped(found[name], gradient.shape), gradient)
            largest = max(largest, within(comparison, f"the gradient of {name}"))
        return largest

    def _alone(self, x: Array, dout: Array) -> dict[str, Array]:
        """The gradients of a call on one batch element."""
        border, device = self.subject.border, self.subject.device
        call = self.bound({"x": border.asarray(x, device), "dout": border.asarray(dout, device)})
        with blaming(), border.grad_mode("on" if border.differentiates else "off"):
            found = self.unpacked(call())
        return {name: self.subject.received(native) for name, native in found.items()}
