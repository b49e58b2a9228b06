"""A module in PyTorch around a kernel with a backward pass of its own, right in every respect, as an Implementation.

Nothing here imports PyTorch: tensors bring their methods with them. Projections are computed in float32 (float64 for
float64) and rounded to x's dtype; parameters are leaves, and autograd carries gradients through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attn_conformance.mutants.differentiable import Differentiable, Tensor, widen
from attn_reference.claims import PLAIN_FEATURES, Claims
from attn_reference.errors import check_forward_call, check_module_sizes, check_qkv_call


class Handle:
    """A module: its sizes and its parameters by name."""

    def __init__(self, n_state: int, n_head: int, causal: bool) -> None:
        check_module_sizes(n_state, n_head)
        self.n_state, self.n_head, self.causal = n_state, n_head, causal
        self.params: dict[str, Tensor] = {}

    @property
    def sizes(self) -> dict[str, Any]:
        """As errors are told."""
        return {"n_state": self.n_state, "n_head": self.n_head, "causal": self.causal}

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """As of a torch.nn.Module."""
        return self.params.items()


class DifferentiableModule:
    """Multi-head attention of x (B, T, n_state) to itself or to xa (B, S, n_state)."""

    border: ClassVar[str] = "torch"
    claims: ClassVar[Claims] = Claims(
        features=(PLAIN_FEATURES - {"linear-memory"}) | {"qkv", "casts-weights", "constructor"}
    )
    kernel: ClassVar[Differentiable] = Differentiable()

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Tensor]) -> Handle:
        """A module with these parameters."""
        handle = Handle(n_state, n_head, causal)
        self.load(handle, params)
        return handle

    def load(self, handle: Handle, params: Mapping[str, Tensor]) -> None:
        """Other parameters, copied."""
        handle.params = {name: param.detach().clone().requires_grad_() for name, param in params.items()}

    def parameters(self, handle: Handle) -> dict[str, Tensor]:
        """Those it holds."""
        return handle.params

    def forward(self, handle: Handle, x: Tensor, xa: Tensor = None, mask: Tensor = None) -> Tensor:
        """The result (B, T, n_state) in x's dtype."""
        check_forward_call(x, xa, mask, cached=None, **handle.sizes)
        q, k, v = self.projected(handle, x, x if xa is None else xa)
        return self.project(handle, "out", self.between(handle, q, k, v, mask))

    def attention(self, handle: Handle, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None) -> Tensor:
        """What lies between the projections: q (B, T, n_state), k and v (B, S, n_state) to (B, T, n_state)."""
        check_qkv_call(q, k, v, mask, **handle.sizes)
        return self.between(handle, q, k, v, mask)

    def projected(self, handle: Handle, x: Tensor, src: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, L, n_state)."""
        return (
            self.project(handle, "query", x),
            self.project(handle, "key", src),
            self.project(handle, "value", src),
        )

    def project(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        """The projection x W^T + b in x's dtype; weight and bias are cast to that first."""
        y = widen(x) @ widen(self.parameter(handle, f"{name}.weight").to(x.dtype)).mT
        if name != "key":
            y = y + widen(self.parameter(handle, f"{name}.bias").to(x.dtype))
        return y.to(x.dtype)

    def parameter(self, handle: Handle, name: str) -> Tensor:
        """A parameter as it is computed with."""
        return handle.params[name]

    def between(self, handle: Handle, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Split, attend, merge: (B, T, n_state)."""
        heads = handle.n_head, handle.n_state // handle.n_head
        q, k, v = (x.unflatten(2, heads).transpose(1, 2) for x in (q, k, v))
        return self.kernel(q, k, v, mask, handle.causal).transpose(1, 2).flatten(2)
