"""HOST: life inside PyTorch: saving, copying, casting, compiling, exporting, autocast, and hooks."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from attn_conformance import simplified
from attn_conformance.cases import Forward, ForwardCase, ScriptCase, build_forward
from attn_conformance.checks.forward import ANY
from attn_conformance.expect import within
from attn_conformance.judge import Failed, ask_forward
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import MODULE, check
from attn_conformance.sessions import HookSession
from attn_conformance.stage import Stage
from attn_conformance.strategies import appended, decoded, forward_cases, scripts
from attn_conformance.subject import Array, blaming

TORCH = ("torch-module",)


def _called(subject: ModuleSubject, function: Any, call: Forward) -> Array:
    """The result of function(x, xa) without gradients, as NumPy."""
    natives = [subject.border.asarray(a, subject.device) for a in (call.x, call.xa) if a is not None]
    with blaming(), subject.border.grad_mode("off"):
        y = subject.received(function(*natives))
    if y.shape != call.x.shape:
        raise Failed(f"returned shape {y.shape}, expected (B, T, n_state) = {call.x.shape}")
    return y


def _pickled(module: Any) -> Any:
    import torch

    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    # The file was written two lines above: nothing that comes from elsewhere is unpickled.
    return torch.load(buffer, weights_only=False)


def _reloaded(module: Any) -> Any:
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(module.state_dict())
    return other


COPIES: dict[str, Callable[[Any], Any]] = {
    "state_dict": _reloaded,
    "deepcopy": copy.deepcopy,
    "pickle": _pickled,
    ".to(float64)": lambda module: module.to(dtype=_torch().float64),
    ".half()": lambda module: module.half(),
}


def _torch() -> Any:
    import torch

    return torch


@check(
    "HOST-1",
    cases=lambda s: forward_cases(s, cross=ANY, causal=ANY, change=st.sampled_from(tuple(COPIES))),
    floor=1,
    kinds=MODULE,
    needs=TORCH,
    grounds=simplified.forward,
    at_most=40,
)
def modules_are_saved_copied_and_cast(subject: ModuleSubject, case: ForwardCase) -> bool:
    """A state_dict round trip, deepcopy, pickle, .to and .half give modules that work."""
    call = build_forward(case)
    original = subject.build(call.params, call.n_head, call.is_causal)
    with blaming():
        module = COPIES[case.change](original)
    if module is not original:  # a copy has parameters of its own
        for parameter in original.parameters():
            parameter.data.zero_()
    dtype = {".to(float64)": "float64", ".half()": "float16"}.get(case.change)
    if dtype is not None and dtype in subject.claims.dtypes:
        kind = build_forward(replace(case, dtype=dtype)).x.dtype
        narrowed = {name: array.astype(kind) for name, array in call.params.items()}
        call = replace(
            call, x=call.x.astype(kind), xa=None if call.xa is None else call.xa.astype(kind), params=narrowed
        )
    elif dtype is not None:
        return True
    within(_called(subject, module, call)[:, None], subject.answer_forward(call), f"after {case.change}")
    return True


@check(
    "HOST-2",
    cases=lambda s: forward_cases(
        s, cross=ANY, causal=ANY, queries=st.integers(3, 6), keys=st.integers(3, 6),
        change=st.sampled_from(("torch.compile", "torch.export")),
    ),
    floor=1,
    kinds=MODULE,
    needs=TORCH,
    grounds=simplified.forward,
    at_most=4,
)  # fmt: skip
def compiled_and_exported_modules_agree(subject: ModuleSubject, case: ForwardCase) -> bool:
    """torch.compile(fullgraph=True, backend="aot_eager") and torch.export give the same result."""
    torch = _torch()
    call = build_forward(case)
    module = subject.build(call.params, call.n_head, call.is_causal)
    natives = tuple(subject.border.asarray(a, subject.device) for a in (call.x, call.xa) if a is not None)
    with blaming(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.change == "torch.compile":
            torch.compiler.reset()
            function = torch.compile(module, fullgraph=True, backend="aot_eager")
        else:
            function = torch.export.export(module, natives).module()
        y = _called(subject, function, call)
    within(y[:, None], subject.answer_forward(call), f"after {case.change}")
    return True


@check(
    "HOST-3",
    cases=lambda s: st.one_of(scripts(s, steps=appended()), scripts(s, steps=decoded(), causal=ANY)),
    kinds=MODULE,
    needs=(*TORCH, "drop-in"),
    grounds=simplified.steps_only,
)
def hooks_may_manage_the_cache(subject: ModuleSubject, case: ScriptCase) -> bool:
    """Under forward hooks on key and value that append, chunks equal the whole as with a cache of its own."""
    return Stage(subject, case, session=HookSession).play()


@check(
    "HOST-4",
    cases=lambda s: forward_cases(
        s, cross=ANY, causal=ANY, change=st.sampled_from(("autocast", "inference_mode"))
    ),
    floor=1,
    kinds=MODULE,
    needs=TORCH,
    grounds=simplified.forward,
    at_most=40,
)
def autocast_and_inference_mode_work(subject: ModuleSubject, case: ForwardCase) -> bool:
    """Under autocast the result has autocast's or x's dtype and lies within its bound; inference_mode works."""
    torch = _torch()
    call = build_forward(replace(case, dtype="float32" if case.change == "autocast" else case.dtype))
    module = subject.build(call.params, call.n_head, call.is_causal)
    if case.change == "inference_mode":
        with torch.inference_mode():
            y = _called(subject, module, call)
        within(y[:, None], subject.answer_forward(call), "in inference_mode")
        return True
    with torch.autocast(subject.device, dtype=torch.bfloat16):
        y = _called(subject, module, call)
    if y.dtype.name not in ("bfloat16", "float32"):
        raise Failed(f"under autocast to bfloat16 the result is {y.dtype.name}")
    # What autocast computes in bfloat16 is judged as bfloat16, its inputs being rounded first.
    kind = build_forward(replace(case, dtype="bfloat16")).x.dtype
    low = Forward(
        call.x.astype(kind),
        None if call.xa is None else call.xa.astype(kind),
        {name: array for name, array in call.params.items() if subject.key_bias or name != "key.bias"},
        call.n_head,
        None,
        call.is_causal,
    )
    within(y[:, None], ask_forward(low, "eager"), "under autocast")
    return True
