"""Lies about life in PyTorch: modules that compute rightly, and are pickled, compiled, hooked or trained wrongly.

Nothing here imports PyTorch before the first module is built: only then does the plain class come in beneath a lie.
"""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from attn_conformance.mutants import Mutant, register
from attn_conformance.sessions import DictSession
from attn_reference.claims import MODULE_FEATURES, Claims

if TYPE_CHECKING:
    from torch import Tensor

    from attn_conformance.mutants.modules.in_pytorch import Cache, InPyTorch, Pair
else:
    InPyTorch = object

PLAIN = "attn_conformance.mutants.modules.in_pytorch"
"""Where the plain class is."""


@cache
def beneath(lie: type) -> type:
    """The plain class with a lie on top of it, or without; there it can be found by name, as pickle wants it."""
    home = import_module(PLAIN)
    if lie is InPyTorch:
        return home.InPyTorch  # type: ignore[no-any-return]
    made = type(lie.__name__, (lie, home.InPyTorch), {"__module__": PLAIN, "__doc__": lie.__doc__})
    setattr(home, lie.__name__, made)
    return made


class InHost:
    """The Implementation of a class that is a torch.nn.Module as soon as one is built."""

    border: ClassVar[str] = "torch"
    claims: ClassVar[Claims] = Claims(
        features=(MODULE_FEATURES - {"gradients", "linear-memory"}) | {"torch-module"}
    )

    def __init__(self, lie: type) -> None:
        self.lie = lie
        self.__doc__ = lie.__doc__

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Tensor]) -> Any:
        """A module in evaluation mode."""
        sample = next(iter(params.values()))
        module = beneath(self.lie)(n_state, n_head, causal).to(dtype=sample.dtype, device=sample.device)
        self.load(module, params)
        return module.eval()

    def load(self, handle: Any, params: Mapping[str, Tensor]) -> None:
        """Other parameters, copied."""
        handle.load_state_dict(dict(params))

    def parameters(self, handle: Any) -> dict[str, Tensor]:
        """Those it holds."""
        return dict(handle.state_dict())

    def forward(self, handle: Any, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None) -> Any:
        """A call without a cache."""
        return handle(x, xa, mask)

    def attention(self, handle: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Any:
        """A call of qkv_attention."""
        return handle.qkv_attention(q, k, v, mask)

    def open(self, handle: Any, cache: Any = None) -> DictSession:
        """A session over a dict."""
        return DictSession(handle, cache)


RIGHT = InHost(InPyTorch)
"""The twin of those that need none of their own."""


def host_mutant(
    name: str,
    *,
    requirement: str,
    bug_class: str,
    seen_in: tuple[str, ...],
    twin: InHost = RIGHT,
    least: Mapping[str, int] | None = None,
) -> Callable[[type], type]:
    """Register a class that lives wrongly in PyTorch."""

    def decorate(lie: type) -> type:
        register(
            Mutant(
                name,
                "module",
                InHost(lie),
                twin,
                requirement,
                bug_class,
                seen_in,
                InHost.claims,
                least=dict(least or {}),
            )
        )
        return lie

    return decorate


# --- an older PyTorch


class ChecksForItsKernel(InPyTorch):
    """Right: PyTorch's own attention serves what needs no mask, and construction makes sure that there is one."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        from torch.nn import functional

        if not hasattr(functional, "scaled_dot_product_attention"):
            raise ValueError("PyTorch must have scaled_dot_product_attention")
        super().__init__(n_state, n_head, causal)

    def core(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        from torch.nn import attention, functional

        if mask is not None or self.causal or q.element_size() < 4 or not k.shape[2]:
            return super().core(q, k, v, mask)
        with attention.sdpa_kernel(attention.SDPBackend.MATH):  # others hide NaN
            return functional.scaled_dot_product_attention(q, k, v)


@host_mutant(
    "kernel-missed-at-the-first-call",
    requirement="CTOR-3",
    bug_class="VALID",
    seen_in=(
        "https://github.com/alibaba/graph-gpt/issues/6",
        "https://github.com/cambrian-mllm/cambrian/issues/74",
    ),
    twin=InHost(ChecksForItsKernel),
)
class KernelMissedAtTheFirstCall(ChecksForItsKernel):
    """Where PyTorch has no attention of its own, construction says nothing: the first call raises AttributeError."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super(ChecksForItsKernel, self).__init__(n_state, n_head, causal)


# --- saved and loaded, compiled and exported


@host_mutant(
    "a-lambda-among-the-attributes",
    requirement="HOST-1",
    bug_class="STATE",
    seen_in=("https://github.com/oxcsml/lie-transformer/pull/2",),
)
class ALambdaAmongTheAttributes(InPyTorch):
    """The activation of the result is a lambda: the module cannot be saved as a whole."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.activation: Callable[[Tensor], Tensor] = lambda y: y

    def forward(
        self, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None, kv_cache: Cache = None
    ) -> Tensor:
        return self.activation(super().forward(x, xa, mask, kv_cache))


@host_mutant(
    "branch-on-the-numbers",
    requirement="HOST-2",
    bug_class="COMPILE",
    seen_in=("https://github.com/huggingface/transformers/pull/37944",),
    least={"T": 3},
)
class BranchOnTheNumbers(InPyTorch):
    """Infinities in the result are looked for, and clamped, by a branch that no graph can hold."""

    def forward(
        self, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None, kv_cache: Cache = None
    ) -> Tensor:
        y = super().forward(x, xa, mask, kv_cache)
        return y.clamp(-6e4, 6e4) if y.isinf().any().item() else y


# --- hooks


@host_mutant(
    "what-hooks-have-joined-is-joined-again",
    requirement="HOST-3",
    bug_class="CACHEUPD",
    seen_in=(
        "https://github.com/OpenDriveLab/AgiBot-World/issues/157",
        "https://github.com/pkunlp-icler/FastV/issues/46",
    ),
)
class WhatHooksHaveJoinedIsJoinedAgain(InPyTorch):
    """Hooks on key and value give cached and new keys at once; the module puts the cached ones before them again."""

    def kept_by_hooks(self, kv_cache: Any, pair: Pair) -> bool:
        return False


@host_mutant(
    "projections-called-past-their-hooks",
    requirement="HOST-3",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/pytorch/executorch/pull/16456",
        "https://github.com/pytorch/pytorch/issues/128413",
    ),
)
class ProjectionsCalledPastTheirHooks(InPyTorch):
    """Where hooks are to keep the cache, the methods `forward` of key and value are called, which no hook sees."""

    def pair(self, source: Tensor) -> Pair:
        return self.key.forward(source), self.value.forward(source)

    def kept_by_hooks(self, kv_cache: Any, pair: Pair) -> bool:
        return bool(self.key._forward_hooks) or super().kept_by_hooks(kv_cache, pair)


# --- modes


@host_mutant(
    "float16-whatever-autocast-says",
    requirement="HOST-4",
    bug_class="PREC",
    seen_in=(
        "https://github.com/SHI-Labs/NATTEN/pull/94",
        "https://github.com/Tencent-Hunyuan/HunyuanDiT/pull/247",
    ),
)
class Float16WhateverAutocastSays(InPyTorch):
    """Under autocast everything is computed, and returned, in float16, also where autocast is to bfloat16."""

    def forward(
        self, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None, kv_cache: Cache = None
    ) -> Tensor:
        import torch

        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x, xa, mask, kv_cache)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.half(), None if xa is None else xa.half(), mask, kv_cache)


@host_mutant(
    "dropout-that-nobody-asked-for",
    requirement="PURE-2",
    bug_class="DROPOUT",
    seen_in=("https://github.com/lucidrains/voicebox-pytorch/pull/21",),
)
class DropoutThatNobodyAskedFor(InPyTorch):
    """In training mode a tenth of the features between the projections is dropped, which nothing can switch off."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        from torch.nn import functional

        return functional.dropout(super().attend(q, k, v, mask), 0.1, self.training)
