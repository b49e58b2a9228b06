"""The reference as a module on NumPy arrays, with the interface of the seed: projections, attention, cache."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar

import numpy as np

from .claims import MODULE_FEATURES, Claims
from .errors import (
    cached_entries,
    check_array_type,
    check_forward_call,
    check_module_sizes,
    check_one_dtype,
    check_qkv_call,
)
from .forward import merge_heads, split_heads
from .lowering import lower
from .matrices import solve
from .problem import Array


class Projection:
    """y = x W^T + b. weight: (out features, in features). bias: (out features,), or None for none."""

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self.weight = weight
        self.bias = bias

    @np.errstate(all="ignore")  # what the dtype cannot hold becomes inf, as in every implementation
    def __call__(self, x: Array) -> Array:
        """The projection of x (..., in features), summed in float64 and rounded once to the dtype of x.

        Weight and bias are cast to that dtype before.
        """
        y = x.astype(np.float64) @ self.weight.astype(x.dtype).astype(np.float64).T
        if self.bias is not None:
            y = y + self.bias.astype(x.dtype).astype(np.float64)
        return np.asarray(y.astype(x.dtype))


class MultiHeadAttention:
    """Multi-head attention as in section 1 of the specification; satisfies `AttentionModule`.

    n_state: size of the last axis of x, xa and the result. n_head: how many heads share it; each takes
    D = n_state / n_head consecutive elements. causal: key j is visible to query i if and only if
    j <= i + (S - T). Raises ValueError where n_head does not divide n_state or a size is below 1, and TypeError
    where one is no integer.

    The start values are the same in every instance, uniform in +-1/sqrt(n_state).
    """

    claims: ClassVar[Claims] = Claims(
        arithmetic="precise",
        features=(MODULE_FEATURES - {"gradients", "linear-memory"}) | {"validates", "run-determinism"},
    )

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        check_module_sizes(n_state, n_head)
        self.n_state = n_state
        self.n_head = n_head
        self.causal = causal
        rng = np.random.default_rng(0)
        reach = n_state**-0.5

        def projection(bias: bool = True) -> Projection:
            weight = rng.uniform(-reach, reach, (n_state, n_state)).astype(np.float32)
            return Projection(
                weight, rng.uniform(-reach, reach, n_state).astype(np.float32) if bias else None
            )

        self.query = projection()
        self.key = projection(bias=False)  # it would add the same to all scores of a query: no influence
        self.value = projection()
        self.out = projection()

    def __call__(
        self,
        x: Array,
        xa: Array | None = None,
        mask: Array | None = None,
        kv_cache: MutableMapping[Any, Any] | None = None,
    ) -> Array:
        """The same as `forward`."""
        return self.forward(x, xa, mask, kv_cache)

    def forward(
        self,
        x: Array,
        xa: Array | None = None,
        mask: Array | None = None,
        kv_cache: MutableMapping[Any, Any] | None = None,
    ) -> Array:
        """Attention of x (B, T, n_state) to itself or to xa (B, S, n_state): (B, T, n_state) in x's dtype.

        x, xa: float64, float32, float16 or bfloat16. mask: boolean, True = may attend, or floating, in that
        dtype or float32, added to the scores, -inf forbids; (T, S) or 4-D with each of B, n_head, T full or 1,
        where S counts cached and new keys. kv_cache: keys and values of earlier calls, found by `key` and `value`,
        each (B, S, n_state). Self-attention appends to them; cross-attention stores those of the first xa and
        does not look at later ones (section 4).

        Raises ValueError or TypeError for malformed calls, and ValueError for a mask where causal is True.
        Whatever raises, the cache is as it was.
        """
        check_array_type(np.ndarray, x=x, xa=xa, mask=mask)
        past = cached_entries(kv_cache, self.key, self.value, self.n_state)
        check_forward_call(
            x,
            xa,
            mask,
            n_state=self.n_state,
            n_head=self.n_head,
            causal=self.causal,
            cached=None if past is None else past[0].shape[:2],
        )
        if past is not None:
            entries = dict(zip(("kv_cache[key]", "kv_cache[value]"), past, strict=True))
            check_array_type(np.ndarray, **entries)
            check_one_dtype(x=x, **entries)

        q = self.query(x)
        if past is not None and xa is not None:
            k, v = past
        else:
            source = x if xa is None else xa
            k, v = self.key(source), self.value(source)
            if past is not None:
                k, v = (np.concatenate([old, new], axis=1) for old, new in zip(past, (k, v), strict=True))
        y = self.out(self.qkv_attention(q, k, v, mask))
        if kv_cache is not None:
            kv_cache.update({self.key: k, self.value: v})  # last, when nothing can raise any more
        return y

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """What lies between the projections: (B, T, n_state) in the dtype of q.

        q: (B, T, n_state); k and v: (B, S, n_state), heads not split; mask and exceptions as for `forward`. Computed
        in float64 and rounded once.
        """
        check_array_type(np.ndarray, q=q, k=k, v=v, mask=mask)
        check_qkv_call(q, k, v, mask, n_state=self.n_state, n_head=self.n_head, causal=self.causal)
        dtype, (q, k, v) = q.dtype, (split_heads(x, self.n_head) for x in (q, k, v))
        o = merge_heads(solve(lower(q, k, v, mask, self.causal)).o)
        with np.errstate(all="ignore"):  # as in Projection
            return o.astype(dtype)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters by name."""
        return {name: getattr(*at).copy() for name, at in self._parameters().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over copies of parameters, in whatever dtype they are.

        Raises ValueError, and takes over nothing, for names that are missing or unknown and for other shapes.
        """
        places = self._parameters()
        if state.keys() != places.keys():
            missing, unknown = sorted(places.keys() - state.keys()), sorted(state.keys() - places.keys())
            raise ValueError(f"state must hold {list(places)}; missing {missing}, unknown {unknown}")
        new = {name: np.array(state[name]) for name in places}
        for name, at in places.items():
            if new[name].shape != getattr(*at).shape:
                raise ValueError(f"{name} must have shape {getattr(*at).shape}, got shape {new[name].shape}")
        for name, at in places.items():
            setattr(*at, new[name])

    def _parameters(self) -> dict[str, tuple[Projection, str]]:
        """Name of each parameter to the projection that has it and the attribute it is there."""
        return {
            f"{name}.{attribute}": (projection, attribute)
            for name in ("query", "key", "value", "out")
            for projection in (getattr(self, name),)
            for attribute in ("weight", "bias")
            if getattr(projection, attribute) is not None
        }
