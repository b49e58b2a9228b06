"""Which kernels ran: the operators of a call on a CPU, the device's kernels on CUDA, from PyTorch's profiler."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

NAMES = """
empty empty_like empty_strided new_empty zeros zeros_like new_zeros ones ones_like full scalar_tensor fill_
zero_ copy_ clone contiguous to _to_copy type_as detach detach_ alias lift_fresh resize_ set_ view
_unsafe_view reshape _reshape_alias as_strided as_strided_ transpose transpose_ swapaxes movedim numpy_T
permute t expand expand_as slice select mT mH T H adjoint swapdims view_as unfold diagonal narrow unsqueeze
squeeze flatten unflatten split split_with_sizes unbind chunk resolve_conj resolve_neg result_type
promote_types is_nonzero item _local_scalar_dense
"""
GLUE = frozenset(NAMES.split())
"""Operators that allocate, copy or look at memory otherwise."""

LONGEST = 160
"""Characters of a device kernel's name that are kept: template arguments run on for hundreds."""

DRESSING = (
    (r"\(anonymous namespace\)::", ""),
    (r"^void ", ""),
    (r"[<(].*", ""),  # arguments of templates and functions
    (r".*::", ""),
    (r"^cudnn_generated_(?:fort_native_)?(.*?)_knob_.*", r"cudnn_\1"),
    (r"^_?scaled_dot_product_", ""),
    (r"_for_cpu$", ""),
)
"""What a name has around it that does not tell how attention is computed: patterns, and what they leave, in order."""


def plain(names: Iterable[str]) -> tuple[str, ...]:
    """Names as people say them, each once: flash_fwd_kernel for a line of C++."""
    return tuple(dict.fromkeys(map(_plain, names)))


def _plain(name: str) -> str:
    for pattern, left in DRESSING:
        name = re.sub(pattern, left, name) or name
    return name


def families(names: Iterable[str]) -> frozenset[str]:
    """Plain names without the sizes of tiles: libraries of matrix products choose these anew for every call."""
    return frozenset(re.sub(r"_\d+x\d+.*", "", name) for name in plain(names))


def apart(one: Sequence[str], other: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Plain names of both, unless they differ in what these leave out, such as sizes of tiles: then as they are."""
    ours, theirs = plain(one), plain(other)
    return (tuple(one), tuple(other)) if ours == theirs and tuple(one) != tuple(other) else (ours, theirs)


def kernels(border: str, device: str, call: Callable[[], Any]) -> tuple[str, ...]:
    """Names in the order of first use, of one call of an implementation in PyTorch; () for other frameworks.

    On a CPU: operators that are no glue and call none that is not, as _scaled_dot_product_flash_attention_for_cpu.
    """
    if border != "torch":
        return ()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else two lines about itself for each call
    return _on_cuda(call) if device == "cuda" else _on_cpu(call)


def _on_cpu(call: Callable[[], Any]) -> tuple[str, ...]:
    from torch.autograd.profiler import profile

    profiled: Any = profile()
    with profiled:
        call()
    events = profiled.function_events
    return tuple(dict.fromkeys(e.name.removeprefix("aten::") for e in events if _works(e) and not _below(e)))


def _works(event: Any) -> bool:
    """Whether an event is an operator, and no glue."""
    space, _, name = event.name.partition("::")
    return bool(name) and space not in ("autograd", "torch") and name not in GLUE


def _below(event: Any) -> bool:
    """Whether an operator has others do its work."""
    return any(_works(child) or _below(child) for child in event.cpu_children)


def _on_cuda(call: Callable[[], Any]) -> tuple[str, ...]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    events: Any = profiled.events()
    names = (e.name for e in events if str(e.device_type).endswith("CUDA"))
    return tuple(dict.fromkeys(n[:LONGEST] for n in names if not n.startswith(("Memcpy", "Memset"))))
