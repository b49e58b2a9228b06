"""Right modules that differ in how they project, attend and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from attn_conformance.controls import Control, Rule, register
from attn_conformance.controls.dense import (
    late_normalisation,
    mask_after_exp,
    smallest_finite_fill,
    split_scale,
)
from attn_conformance.controls.inputs import Array, Inputs, prepare
from attn_conformance.controls.online import online
from attn_conformance.controls.precision import eager
from attn_conformance.mutants import quiet
from attn_conformance.mutants.modules.plain import Cache, Plain, Projection
from attn_conformance.mutants.plain import widen
from attn_reference.claims import DTYPES, MODULE_FEATURES, Arithmetic, Claims

# ruff: noqa: D102  # what is overridden is documented in the plain module

FEATURES = MODULE_FEATURES - {"gradients", "linear-memory"}
"""What every module here can do; one that does less says so."""


def module_control(
    name: str,
    *,
    without: tuple[str, ...] = (),
    arithmetic: Arithmetic = "fused",
    dtypes: tuple[str, ...] = DTYPES,
) -> Callable[[type[Plain]], type[Plain]]:
    """Register a right module. without: what it does not claim of FEATURES."""

    def decorate(module: type[Plain]) -> type[Plain]:
        claims = Claims(dtypes=dtypes, features=FEATURES - set(without), arithmetic=arithmetic)
        register(Control(name, "module", module, claims))
        return module

    return decorate


module_control("plain-module")(Plain)

# --- attention by another rule


def by_rule(module: Plain, rule: Rule, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """What a kernel's rule gives in the module's core."""
    inputs = prepare(q, k, v, mask, module.causal, None)
    return np.asarray(rule(inputs) if k.shape[2] else inputs.nothing()).astype(q.dtype)


@module_control("split-scale-module")
class SplitScaleModule(Plain):
    """The root of the scale goes to q and to k, as Whisper does it."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return by_rule(self, split_scale, q, k, v, mask)


@module_control("online-module")
class OnlineModule(Plain):
    """Keys are taken in tiles of 16, the last first, with a running maximum."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        def rule(x: Inputs) -> Array:
            return online(x, 16, backwards=True)

        return by_rule(self, rule, q, k, v, mask)


@module_control("mask-after-exp-module")
class MaskAfterExpModule(Plain):
    """Forbidden weights are zeroed after exp; the peak is that of allowed keys."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return by_rule(self, mask_after_exp, q, k, v, mask)


@module_control("finite-fill-module")
class FiniteFillModule(Plain):
    """Forbidden logits are the dtype's lowest number, and what they add is taken out afterwards."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return by_rule(self, smallest_finite_fill, q, k, v, mask)


@module_control("eager-module", arithmetic="eager", dtypes=("float16", "bfloat16"))
class EagerModule(Plain):
    """Scores and weights are both held in the storage dtype, and the claim says so."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return by_rule(self, eager, q, k, v, mask)


@module_control("reversed-keys-module")
class ReversedKeysModule(Plain):
    """Keys, values and the columns of the mask are turned round; causality is an explicit mask then."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        T, S = q.shape[2], k.shape[2]
        if self.causal:
            mask = np.tri(T, S, S - T, dtype=np.bool_)
        turned = prepare(
            q, k[:, :, ::-1], v[:, :, ::-1], None if mask is None else mask[..., ::-1], False, None
        )
        return np.asarray(late_normalisation(turned) if S else turned.nothing()).astype(q.dtype)


@module_control("visible-rows-module")
class VisibleRowsModule(Plain):
    """Only queries that see a key are attended for, one batch element and head at a time; the rest stay zero."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        x = prepare(q, k, v, mask, self.causal, None)
        bias = np.broadcast_to(x.bias, x.visible.shape)
        out = np.zeros_like(x.q)
        for at in np.ndindex(x.q.shape[:2]):
            rows = x.visible[at].any(1)
            logits = x.scale * (x.q[at][rows] @ x.k[at].T) + bias[at][rows]
            logits = np.where(x.visible[at][rows], logits, -np.inf)
            grown = np.exp(logits - logits.max(1, keepdims=True)) if k.shape[2] else logits
            out[at][rows] = grown @ x.v[at] / grown.sum(1, keepdims=True)
        return out.astype(q.dtype)


@module_control("expanded-views-module")
class ExpandedViewsModule(Plain):
    """Heads are split by strides alone, and masks are expanded to (B, H, T, S) without a copy."""

    def split(self, x: Array) -> Array:
        B, T, N = x.shape
        along, feature = x.strides[1], x.strides[2]
        D = N // self.n_head
        strides = x.strides[0], D * feature, along, feature
        return as_strided(x, (B, self.n_head, T, D), strides, writeable=False)

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        full = None if mask is None else np.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
        return super().core(q, k, v, full)


# --- other projections


@module_control("key-bias-module")
class KeyBiasModule(Plain):
    """The key projection has a bias, a further parameter: it adds the same to all scores of a query."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.key.bias = np.linspace(-1, 1, n_state).astype(np.float32)


@module_control("fused-projections-module")
class FusedProjectionsModule(Plain):
    """Self-attention projects x once, by all three weights side by side, packed anew in each call."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        if xa is not None:
            return super().__call__(x, xa, mask, kv_cache)
        self.check_forward(x, xa, mask, kv_cache)
        parts = self.query, self.key, self.value
        packed = widen(x) @ np.concatenate([part.cast(part.weight, x) for part in parts]).T
        biased = zip(np.split(packed, 3, axis=2), parts, strict=True)
        q, k, v = (
            (y if part.bias is None else y + part.cast(part.bias, x)).astype(x.dtype) for y, part in biased
        )
        entry = self.stored(kv_cache)
        pair = (k, v) if entry is None else self.join(entry, (k, v))
        if kv_cache is not None:
            self.store(kv_cache, pair)
        return self.out(self.attend(q, *pair, mask))


class _Float64Projection(Projection):
    def __call__(self, x: Array) -> Array:
        return super().__call__(x.astype(np.float64)).astype(x.dtype)

    def cast(self, parameter: Array, x: Array) -> Array:
        return parameter.astype(np.float64)


@module_control("float64-module", arithmetic="precise", without=("casts-weights",))
class Float64Module(Plain):
    """Everything is computed in float64; what lies between the steps is rounded to x's dtype."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.query, self.value, self.out = (_Float64Projection(n_state) for _ in range(3))
        self.key = _Float64Projection(n_state, bias=False)

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return by_rule(self, lambda x: late_normalisation(x.to(np.float64)), q, k, v, mask)


@module_control("out-per-head-module")
class OutPerHeadModule(Plain):
    """Each head's output meets its own columns of the out weight, and the products are summed."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        k, v = self.keys_and_values(x, xa, kv_cache)
        heads = self.core(self.split(self.query(x)), self.split(k), self.split(v), mask)
        weight = self.out.cast(self.out.weight, x)
        assert self.out.bias is not None
        total: Any = self.out.cast(self.out.bias, x)
        for h, columns in enumerate(np.split(weight, self.n_head, axis=1)):
            total = total + widen(heads[:, h]) @ columns.T
        return np.asarray(total).astype(x.dtype)


# --- other results


@module_control("features-first-result-module")
class FeaturesFirstResultModule(Plain):
    """The result is a view of (n_state, T, B)."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        return np.ascontiguousarray(super().__call__(x, xa, mask, kv_cache).T).T
