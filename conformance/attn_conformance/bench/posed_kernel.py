"""A workload posed to a kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from attn_conformance.bench.inputs import pool
from attn_conformance.bench.posed import PLACES_JUDGED, Posed, Sample, padding, shaped, within
from attn_conformance.bench.workloads import Workload
from attn_conformance.borders import Natives
from attn_conformance.cases import Call
from attn_conformance.cases.values import STORAGE
from attn_conformance.gradients import ask_gradients, compared
from attn_conformance.judge import Array, Failed, ask, compare
from attn_conformance.kernel_subject import KernelSubject


class PosedKernel(Posed[KernelSubject]):
    """The function, on q, k, v and a mask in its own axis order."""

    def __init__(self, subject: KernelSubject, workload: Workload, rng: np.random.Generator) -> None:
        """rng: draws the inputs, and which results and rows are judged."""
        self.subject = subject
        self.workload = workload
        self.call = self._call()
        arguments = subject.arguments(self.call)
        shapes = {name: array.shape for name, array in arguments.items() if array.dtype != np.bool_}
        if workload.work == "backward":
            shapes["dout"] = shapes["q"][:-1] + shapes["v"][-1:]
        self.pool = pool(subject.border, subject.device, shapes, workload.dtype, rng)
        self.fixed = {
            name: subject.border.asarray(array, subject.device)
            for name, array in arguments.items()
            if name not in shapes
        }
        super().__init__(rng)

    def _call(self) -> Call:
        w, kind = self.workload, STORAGE[self.workload.dtype]
        q = np.zeros((w.B, w.H, w.T, w.D), kind)
        k = np.zeros((w.B, w.Hkv or w.H, w.S, w.D), kind)
        mask = np.zeros((w.T, w.S), kind) if w.work == "masked" else padding(w)
        return Call(q, k, k, mask, w.is_causal)

    def bound(self, natives: Natives) -> Callable[[], Any]:
        """One call of the function, and with gradients a backward pass from it."""
        if self.workload.work != "backward":
            args, kwargs = self.subject.bind(natives, self.call)
            return partial(self.subject.function, *args, **kwargs)
        border = self.subject.border
        inputs = {name: natives[name] for name in ("q", "k", "v")}

        def function(given: Natives) -> Any:
            args, kwargs = self.subject.bind({**natives, **given}, self.call)
            return self._out(self.subject.function(*args, **kwargs))

        def both() -> tuple[Any, dict[str, Any]]:
            out, pull = border.vjp(function, inputs)
            return out, pull(natives["dout"])

        return both

    def _out(self, returned: Any) -> Any:
        return returned[0] if "lse" in self.subject.claims.features else returned

    def unpacked(self, result: Any) -> dict[str, Any]:
        """The output, and the gradients of q, k and v."""
        if self.workload.work != "backward":
            return {"out": self._out(result)}
        out, gradients = result
        if lost := [name for name, gradient in gradients.items() if gradient is None]:
            raise Failed(f"no gradient came back for {', '.join(lost)}")
        return {"out": out, **gradients}

    def judge(self, sample: Sample) -> float:
        """Rows of a few heads; the gradients of one key head with its queries."""
        w = self.workload
        group = w.H // (w.Hkv or w.H)
        arrays = {
            name: self._standard(name, self.pool.array(sample.drawn, name)) for name in self.pool.shapes
        }
        out = shaped(self._standard("out", self.result(sample, "out")), (w.B, w.H, w.T, w.D))
        largest = 0.0
        for _ in range(PLACES_JUDGED):
            b, h, rows = int(self.rng.integers(w.B)), int(self.rng.integers(w.H)), self.rows(w.T)
            asked = self.subject.lower(self._part(arrays, b, slice(h, h + 1), h // group)).take_rows(rows)
            answer = ask(asked, w.dtype, self.subject.claims.arithmetic)
            got = out[b : b + 1, h : h + 1, rows]
            largest = max(largest, within(compare(got, answer), f"the output of element {b}, head {h}"))
        if w.work == "backward":
            b, n = int(self.rng.integers(w.B)), int(self.rng.integers(w.H // group))
            largest = max(largest, self._judge_gradients(arrays, sample, b, n, group))
        return largest

    def _judge_gradients(self, arrays: dict[str, Array], sample: Sample, b: int, n: int, group: int) -> float:
        heads = {"q": slice(n * group, (n + 1) * group), "k": slice(n, n + 1), "v": slice(n, n + 1)}
        call = self._part(arrays, b, heads["q"], n)
        dout = arrays["dout"][b : b + 1, heads["q"]].astype(np.float64)
        inputs = {"q": call.q, "k": call.k, "v": call.v}
        arithmetic = self.subject.claims.arithmetic
        asked = ask_gradients(self.subject.lower(call), dout, inputs, self.workload.dtype, arithmetic)
        largest = 0.0
        for name, gradient in asked.items():
            whole = shaped(self._standard(name, self.result(sample, name)), arrays[name].shape)
            comparison = compared(whole[b : b + 1, heads[name]], gradient)
            largest = max(largest, within(comparison, f"the gradient of {name} of element {b}, key head {n}"))
        return largest

    def _standard(self, name: str, array: Array) -> Array:
        """(B, H, T, D) from the convention's axis order; a floating mask as (T, S)."""
        if name == "mask":
            return array.reshape(self.workload.T, self.workload.S)
        return array.swapaxes(1, 2) if self.subject.convention.axes == "BTHD" and array.ndim == 4 else array

    def _part(self, arrays: dict[str, Array], b: int, heads: slice, n: int) -> Call:
        """The call of one batch element, some heads, and the key head that they read."""
        mask = arrays.get("mask")
        if (hidden := padding(self.workload)) is not None:
            mask = hidden[b : b + 1]
        q, k, v = arrays["q"][b : b + 1, heads], *(arrays[name][b : b + 1, n : n + 1] for name in "kv")
        return Call(q, k, v, mask, self.workload.is_causal)
