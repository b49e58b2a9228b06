"""The operator Attention of ONNX, run by its reference evaluator: as a kernel, and in a module on packed heads."""

from functools import cache

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from attn_reference import Claims

DTYPES = ("float64", "float32")


@cache
def compiled(opset, inputs, outputs, options):
    """An evaluator of the one operator. inputs: name, dtype and rank, ("", "", 0) for one left out."""
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None] * rank)
        for name, dtype, rank in inputs
        if name
    ]
    kind = given[0].type.tensor_type.elem_type
    returned = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    node = helper.make_node("Attention", [name for name, _, _ in inputs], outputs, **dict(options))
    graph = helper.make_graph([node], "attention", given, returned)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def attend(arrays, outputs=("y",), opset=23, **options):
    """The outputs of the operator; arrays: its inputs in order, None for one left out."""
    while arrays[next(reversed(arrays))] is None:
        arrays.popitem()
    inputs = tuple(("", "", 0) if a is None else (name, str(a.dtype), a.ndim) for name, a in arrays.items())
    evaluator = compiled(opset, inputs, outputs, tuple(sorted(options.items())))
    return evaluator.run(None, {name: a for name, a in arrays.items() if a is not None})


def masked(q, k, v, mask=None):
    """Heads that are split, and a mask."""
    return attend({"q": q, "k": k, "v": v, "mask": mask})[0]


masked.claims = Claims(DTYPES, features=frozenset({"bool-mask", "float-mask", "cross"}))


def grouped(q, k, v):
    """Fewer key heads than query heads."""
    return attend({"q": q, "k": k, "v": v})[0]


grouped.claims = Claims(DTYPES, features=frozenset({"gqa", "cross"}))


class Session:
    """A decoding: the present keys and values of the last step, (B, H, S, D)."""

    def __init__(self, module, cache=None):
        self.module, self.cache = module, cache

    def step(self, x, xa=None, mask=None):
        """One call that continues this decoding."""
        n_head, params, _ = self.module
        empty = np.empty((len(x), n_head, 0, x.shape[2] // n_head), x.dtype)
        past = self.cache or (empty, empty)
        y, *self.cache = packed.attend(self.module, x, x, past, ("y", "present_k", "present_v"))
        return project(params, "out", y)


def project(params, name, x):
    """The product x W^T + b."""
    return (x @ params[f"{name}.weight"].T + params.get(f"{name}.bias", 0)).astype(x.dtype)


class Packed:
    """A module: NumPy's projections, and the operator on (B, T, n_state)."""

    border = "numpy"
    claims = Claims(DTYPES, features=frozenset({"cross", "causal", "cache"}))
    open = Session

    def build(self, n_state, n_head, causal, params):
        """What a call needs."""
        return n_head, {name: np.array(array) for name, array in params.items()}, causal

    def attend(self, module, x, source, past=(None, None), outputs=("y",)):
        """The operator between query, key and value projections."""
        n_head, params, causal = module
        arrays = {"q": project(params, "query", x)}
        arrays |= {"k": project(params, "key", source), "v": project(params, "value", source), "mask": None}
        arrays |= {"past_k": past[0], "past_v": past[1]}
        return attend(arrays, outputs, is_causal=int(causal), q_num_heads=n_head, kv_num_heads=n_head)

    def forward(self, module, x, xa=None, mask=None):
        """One call without a cache."""
        return project(module[1], "out", self.attend(module, x, x if xa is None else xa)[0])


packed = Packed()
