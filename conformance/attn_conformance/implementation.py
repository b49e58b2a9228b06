"""What a module implements to be judged: the Implementation protocol and its sessions. No base class is needed.

A torch or NumPy class with the interface of the seed needs none of this. Everything else states its claims, builds a
module from given parameters, and calls it; arrays go in and come out as its framework's own. Kernels need no
protocol: a function is called as its convention says.

Names and meanings here, and those of claims, are fixed: what is added later is optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from attn_conformance.borders import Border
from attn_reference import Claims

PARAMETERS = (
    *("query.weight", "query.bias", "key.weight", "value.weight", "value.bias", "out.weight", "out.bias"),
)
"""The names of CTOR-4. A key.bias, which the softmax cancels, is welcome too."""


class Session(Protocol):
    """One cache in use by one module.

    Optional, found by name, are length: int, the number of keys held (property); reorder(order): batch element b
    becomes what element order[b] was; truncate(length): only the first keys stay; fork(): a second session that
    continues from here, neither seeing the other's later keys.
    """

    @property
    def cache(self) -> Any:
        """The cache, to be given to `open` of another module that shares it."""
        ...

    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """One call that continues this cache; arguments and result as for `Implementation.forward`."""
        ...


@runtime_checkable
class Implementation(Protocol):
    """A multi-head attention module behind a few functions.

    Parameters have the names of CTOR-4, weights (out features, in features); the dtype and device of the parameters
    are those of the calls, unless the implementation claims casts-weights. Masks are the specification's: boolean,
    True = may attend, or floating, (T, S) or 4-D. Optional, found by name, are

    attention(handle, q, k, v, mask=None): what lies between the projections, (B, T, n_state) in and out (qkv);
    open(handle, cache=None) -> Session: an empty cache, or another session's (cache, shared-cache);
    load(handle, params): other parameters into a built module; parameters(handle): those it holds, by name;
    gradients(handle, call, dout): what autograd does not show the suite, see below;
    differences: documented differences, each tested in the requirement's place.

    Gradients of arguments are PyTorch's or JAX's own, and those of parameters are asked for where the handle is a
    torch.nn.Module with the names of CTOR-4. Elsewhere `gradients` gives them: call holds the array arguments of
    forward (x, xa, mask) or of attention (q, k, v, mask) by name, dout is the gradient of the result, and what comes
    back maps their names and those of the parameters to gradients, None for none.
    """

    @property
    def claims(self) -> Claims:
        """What it says of itself."""
        ...

    @property
    def border(self) -> Border | str:
        """Whose arrays it takes and returns: the name of a framework in `borders.BORDERS`, or a Border."""
        ...

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Any]) -> Any:
        """A module with these parameters, of whatever type: the handle of the other calls."""
        ...

    def forward(self, handle: Any, x: Any, xa: Any = None, mask: Any = None) -> Any:
        """One call without a cache: (B, T, n_state) from x (B, T, n_state), xa (B, S, n_state) and a mask."""
        ...
