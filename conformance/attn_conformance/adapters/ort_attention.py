"""ONNX Runtime's Attention operator, opset 24, on CPU, between projections. Read: onnx 1.23.2, onnxruntime 1.32.0.

The cache is functional: past keys and values go in, present ones come out. Documented otherwise: masks of any integer
dtype, shorter ones and whatever broadcasts to (B, H, T, S) are admitted, and a mask and is_causal are composed.
is_causal counts from past_key, or from nonpad_kv_seqlen: without either, a call with T < S is anchored at the top left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from attn_reference.claims import PLAIN_FEATURES, Claims

Array = NDArray[Any]

OPSET, IR = 24, 10
QUIET = 4  # only fatal messages: what is refused is raised too


@cache
def compiled(
    operator: str, inputs: tuple[tuple[str, str, int], ...], outputs: tuple[str, ...], **options: int
) -> Any:
    """A runtime session of one operator. inputs: name, dtype and rank, ("", "", 0) for one left out."""
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None] * rank)
        for name, dtype, rank in inputs
        if name
    ]
    kind = given[0].type.tensor_type.elem_type
    returned = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    node = helper.make_node(operator, [name for name, _, _ in inputs], outputs, **options)
    graph = helper.make_graph([node], operator, given, returned)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = QUIET, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])


def run(
    operator: str, arrays: Mapping[str, Array | None], outputs: tuple[str, ...], **options: int
) -> list[Array]:
    """The outputs of one operator; arrays: its inputs in order, None for one left out."""
    inputs = tuple(("", "", 0) if a is None else (name, str(a.dtype), a.ndim) for name, a in arrays.items())
    while not inputs[-1][0]:
        inputs = inputs[:-1]
    session = compiled(operator, inputs, outputs, **options)
    results: list[Array] = session.run(None, {name: a for name, a in arrays.items() if a is not None})
    return results


@dataclass
class Module:
    """The operator's attributes, and the projections around it."""

    n_head: int
    causal: bool
    params: dict[str, Array]

    def project(self, name: str, x: Array) -> Array:
        """The product x W^T + b, as MatMul and Add."""
        (y,) = run("MatMul", {"x": x, "w": self.params[f"{name}.weight"].T}, ("y",))
        bias = self.params.get(f"{name}.bias")
        return y if bias is None else run("Add", {"y": y, "b": bias}, ("z",))[0]

    def keys_and_values(self, x: Array) -> list[Array]:
        """Both (B, S, n_state)."""
        return [self.project(name, x) for name in ("key", "value")]

    def attend(
        self, q: Array, kv: Sequence[Array], mask: Array | None, past: Sequence[Array] = ()
    ) -> list[Array]:
        """The result (B, T, n_state); where there is a past, also the present keys and values (B, H, S, D)."""
        inputs: dict[str, Array | None] = {"q": q, "k": kv[0], "v": kv[1], "mask": mask}
        outputs: tuple[str, ...] = ("y",)
        if past:
            inputs |= {"past_key": past[0], "past_value": past[1]}
            outputs = ("y", "present_key", "present_value")
        elif self.causal:  # all keys are there, and the queries are the last of them
            valid = np.full(len(kv[0]), kv[0].shape[1], np.int64)
            inputs |= {"past_key": None, "past_value": None, "nonpad_kv_seqlen": valid}
        heads = {"q_num_heads": self.n_head, "kv_num_heads": self.n_head}
        return run("Attention", inputs, outputs, is_causal=int(self.causal), **heads)


class Session:
    """A decoding: the present keys and values of self-attention, or the projections of xa."""

    def __init__(self, module: Module, cache: list[Array] | None = None) -> None:
        self.module = module
        self.cache = cache or []

    def step(self, x: Array, xa: Array | None = None, mask: Array | None = None) -> Array:
        """One call; only what is accepted is kept."""
        module = self.module
        q = module.project("query", x)
        if xa is None:
            nothing = np.empty((len(x), module.n_head, 0, x.shape[-1] // module.n_head), x.dtype)
            y, *kept = module.attend(q, module.keys_and_values(x), mask, self.cache or [nothing, nothing])
        else:
            kept = self.cache or module.keys_and_values(xa)
            (y,) = module.attend(q, kept, mask)
        self.cache = kept
        return module.project("out", y)

    @property
    def length(self) -> int:
        """Keys held."""
        return self.cache[0].shape[-2] if self.cache else 0

    def reorder(self, order: Sequence[int]) -> None:
        """Let batch element b continue what was order[b]."""
        self.cache = [entry[list(order)] for entry in self.cache]

    def truncate(self, length: int) -> None:
        """Forget all keys after the first `length`."""
        self.cache = [entry[..., :length, :] for entry in self.cache]

    def fork(self) -> Session:
        """A session that continues from here on its own."""
        return Session(self.module, self.cache)


class OrtAttention:
    """The operator as a module."""

    claims = Claims(
        dtypes=("float32", "float16"),  # float64 gets a scale of float32's precision, bfloat16 no kernel
        features=(PLAIN_FEATURES - {"gradients"}) | {"qkv", "cache", "cache-edits"},
        arithmetic="eager",
    )
    border = "numpy"
    open = Session

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Array]) -> Module:
        """The parameters, copied: they are inputs of the graphs, which therefore serve every module."""
        module = Module(n_head, causal, {})
        self.load(module, params)
        return module

    def load(self, handle: Module, params: Mapping[str, Array]) -> None:
        """Other parameters."""
        handle.params.update({name: np.array(array) for name, array in params.items()})

    def forward(self, handle: Module, x: Array, xa: Array | None = None, mask: Array | None = None) -> Array:
        """One call without a cache."""
        q, kv = handle.project("query", x), handle.keys_and_values(x if xa is None else xa)
        return handle.project("out", handle.attend(q, kv, mask)[0])

    def attention(self, handle: Module, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """The operator alone."""
        return handle.attend(q, (k, v), mask)[0]


implementation = OrtAttention()
