"""The interface of the seed: what a multi-head attention module has, whatever library it is written in."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol


class AttentionModule(Protocol):
    """A module constructed as `cls(n_state, n_head, causal=False)`; arrays are those of its own library.

    n_head divides n_state. causal: key j is visible to query i if and only if j <= i + (S - T). key and value
    are the projections that the entries of a cache are found by; query and out are the other two. The
    parameters are query.weight, query.bias, key.weight, value.weight, value.bias, out.weight and out.bias;
    weights are (out features, in features), as in y = x W^T + b.
    """

    n_head: int
    causal: bool

    @property
    def query(self) -> Any:
        """The projection of x to queries."""
        ...

    @property
    def key(self) -> Any:
        """The projection to keys, without bias; where a cache holds keys."""
        ...

    @property
    def value(self) -> Any:
        """The projection to values; where a cache holds values."""
        ...

    @property
    def out(self) -> Any:
        """The projection of the merged heads to the result."""
        ...

    def __call__(
        self, x: Any, xa: Any = None, mask: Any = None, kv_cache: MutableMapping[Any, Any] | None = None
    ) -> Any:
        """Attention of x (B, T, n_state) to itself or to xa (B, S, n_state): (B, T, n_state) in x's dtype.

        mask: boolean, True = may attend, or floating, in x's dtype or float32, -inf forbids; (T, S) or 4-D
        with each of B, H, T full or 1, where S counts cached and new keys. kv_cache: keys and values of
        earlier calls, updated in place; self-attention appends to it, cross-attention stores once and then
        uses what is stored. A rejected call leaves it and the arguments as they were. Raises ValueError or
        TypeError for malformed calls, and ValueError for a mask where causal is True.
        """
        ...

    def qkv_attention(self, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        """What lies between the projections: q (B, T, n_state), k and v (B, S, n_state) to (B, T, n_state)."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """The parameters by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any:
        """Take over parameters by name."""
        ...
