"""A call as a function of the inputs whose gradients are asked for, in the implementation's own arrays and shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from attn_conformance.borders import Natives, Pullback
from attn_conformance.cases import Upstream, upstream

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Differentiated:
    """function: the result (of `shape`) for other values of `inputs`, native arrays by name.

    own: where the implementation computes gradients itself, what it gives for a native output gradient. outward: an
    output gradient in the shape of the result. inward: the gradient of an input, by its name, as it is judged.
    """

    function: Callable[[Natives], Any]
    inputs: Natives
    shape: tuple[int, ...]
    own: Pullback | None = None
    outward: Callable[[Upstream], Array] = lambda dout: upstream.arrange(dout.values, dout.layout)
    inward: Callable[[str, Array], Array] = lambda name, array: array


@dataclass(frozen=True, eq=False)
class Pulled:
    """What a backward pass gave: gradients by input, None where there is none, and the output gradient afterwards."""

    gradients: dict[str, Array | None]
    dout: Array
