"""torch.nn.MultiheadAttention(batch_first=True), with and without need_weights. Read: torch 2.13.0.

Documented otherwise: boolean masks are inverted (True = may not attend), masks are (T, S) or (B * H, T, S), and
is_causal is a hint that the mask beside it is the causal one. There are no cache and no function between the
projections; these are packed, and the key has a bias (zero here: the softmax cancels it). Without need_weights,
self-attention takes a fast path of its own in evaluation without gradients, where the number of heads is even.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_conformance.conventions import Difference
from attn_reference.claims import PLAIN_FEATURES, Claims


class NnMha:
    """The module with one value of need_weights."""

    border = "torch"
    differences = (
        Difference(
            "MASK-1",
            "in a boolean mask True means that the query may not attend to the key",
            "https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html",
        ),
    )

    def __init__(self, need_weights: bool, features: frozenset[str]) -> None:
        self.need_weights = need_weights
        self.claims = Claims(devices=("cpu", "cuda"), features=features, arithmetic="eager")

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Tensor]) -> Any:
        """The module in evaluation mode, and whether it is called with a causal mask."""
        module = nn.MultiheadAttention(n_state, n_head, batch_first=True).to(params["query.weight"]).eval()
        self.load((module, causal), params)
        return module, causal

    def load(self, handle: Any, params: Mapping[str, Tensor]) -> None:
        """Other parameters, packed."""
        no_bias = torch.zeros_like(params["query.bias"])
        packed = {
            "in_proj_weight": torch.cat([params[f"{name}.weight"] for name in ("query", "key", "value")]),
            "in_proj_bias": torch.cat([params["query.bias"], no_bias, params["value.bias"]]),
            "out_proj.weight": params["out.weight"],
            "out_proj.bias": params["out.bias"],
        }
        handle[0].load_state_dict(packed)

    def forward(self, handle: Any, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None) -> Any:
        """The output; a causal call has the bottom-right triangle as its mask, unless another one is given."""
        module, causal = handle
        memory = x if xa is None else xa
        if causal and mask is None:
            T, S = x.shape[-2], memory.shape[-2]
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        mask = None if mask is None else _as_documented(mask, x.shape, module.num_heads)
        return module(x, memory, memory, need_weights=self.need_weights, attn_mask=mask, is_causal=causal)[0]

    def gradients(self, handle: Any, call: Mapping[str, Tensor], dout: Tensor) -> dict[str, Tensor | None]:
        """Those of the packed parameters in their parts."""
        module, leaves = handle[0], {n: a.detach() for n, a in call.items() if a.is_floating_point()}
        y = self.forward(handle, **{**call, **{n: a.requires_grad_() for n, a in leaves.items()}})
        packed = (module.in_proj_weight, module.in_proj_bias, module.out_proj.weight, module.out_proj.bias)
        found = torch.autograd.grad(y, (*leaves.values(), *packed), dout, allow_unused=True)
        gradients: dict[str, Tensor | None] = dict(
            zip((*leaves, "in.weight", "in.bias", "out.weight", "out.bias"), found, strict=True)
        )
        for kind in ("weight", "bias"):
            whole = gradients.pop(f"in.{kind}")
            parts = (None,) * 3 if whole is None else whole.chunk(3)
            gradients |= {
                f"{n}.{kind}": part for n, part in zip(("query", "key", "value"), parts, strict=True)
            }
        return gradients


def _as_documented(mask: Tensor, shape: torch.Size, heads: int) -> Tensor:
    """The mask with True = may not attend, one of rank 4 as (B * H, T, S); S is the module's to judge."""
    if mask.dtype == torch.bool:
        mask = ~mask
    if mask.ndim == 4:
        mask = mask.expand(shape[0], heads, shape[1], -1).flatten(0, 1)
    return mask


FEATURES = PLAIN_FEATURES | {"constructor"}

plain = NnMha(False, FEATURES)
weights = NnMha(True, FEATURES - {"float32-mask"})  # float32 masks beside lower dtypes are refused
