"""torchtune's MultiHeadAttention with its KVCache, a buffer of fixed size. Read: torchtune 0.6.1 (torchao 0.13.0).

Documented otherwise: keys come from a second argument even in self-attention; masks are boolean, (B, T, S), the same
for all heads; a mask takes the place of is_causal. With a cache every call attends to the whole buffer, so that it
needs a mask (B, T, capacity), which also says what is causal: sessions make it, as torchtune's generation does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchtune.modules import KVCache, MultiHeadAttention

from attn_reference.claims import PLAIN_FEATURES, Claims

NAMES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "output_proj"}
CAPACITY = 512  # keys that the buffer of a session holds


class Session:
    """A decoding; its buffer is made at the first step, and is the module's own during a step only."""

    def __init__(self, module: Any, cache: KVCache | None = None) -> None:
        self.module = module
        self.cache: Any = cache

    @property
    def length(self) -> int:
        """Keys held."""
        return 0 if self.cache is None else int(self.cache.size)

    def step(self, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None) -> Any:
        """One call; cross-attention gives xa to the module at the first step only."""
        module, T = self.module, x.shape[1]
        new = (x if xa is None else xa) if xa is None or self.cache is None else None
        if self.cache is None:
            self.cache = KVCache(x.shape[0], CAPACITY, module.num_kv_heads, module.head_dim, x.dtype).to(
                x.device
            )
        S = self.length + (0 if new is None else new.shape[1])
        if mask is None:
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device)
            mask = mask.tril(S - T) if module.is_causal else mask
        mask = nn.functional.pad(_as_documented(mask, x), (0, CAPACITY - S))
        module.kv_cache, module.cache_enabled = self.cache, True
        try:
            return module(x, new, mask=mask)
        finally:
            module.kv_cache, module.cache_enabled = None, False


class Torchtune:
    """`torchtune.modules.MultiHeadAttention` with as many key heads as query heads."""

    claims = Claims(
        devices=("cpu", "cuda"),
        # Its masks cannot differ between heads, which the specification's may: they are not claimed.
        features=(PLAIN_FEATURES - {"bool-mask", "float-mask", "float32-mask"}) | {"cache", "constructor"},
    )
    border = "torch"
    open = Session

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Tensor]) -> Any:
        """The module around four linear layers."""
        layers = {
            layer: nn.Linear(n_state, n_state, bias=f"{name}.bias" in params) for name, layer in NAMES.items()
        }
        sizes = {
            "embed_dim": n_state,
            "num_heads": n_head,
            "num_kv_heads": n_head,
            "head_dim": n_state // (n_head or 1),  # no heads are the library's to refuse
        }
        module = MultiHeadAttention(**sizes, **layers, is_causal=causal).to(params["query.weight"]).eval()
        self.load(module, params)
        return module

    def load(self, handle: Any, params: Mapping[str, Tensor]) -> None:
        """Other parameters, under torchtune's names."""
        for name, layer in NAMES.items():
            parts = {
                kind: params[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in params
            }
            handle.get_submodule(layer).load_state_dict(parts)

    def forward(self, handle: Any, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None) -> Any:
        """One call without a cache."""
        return handle(x, x if xa is None else xa, mask=None if mask is None else _as_documented(mask, x))


def _as_documented(mask: Tensor, x: Tensor) -> Tensor:
    """The mask as (B, T, S); NotImplementedError if its heads differ in shape, which torchtune cannot express."""
    if mask.ndim == 2:
        return mask.expand(x.shape[0], -1, -1)
    if mask.ndim == 4:
        if mask.shape[1] != 1:
            raise NotImplementedError("torchtune's masks are the same for all heads")
        return mask[:, 0].expand(x.shape[0], x.shape[1], -1)
    return mask


implementation = Torchtune()
