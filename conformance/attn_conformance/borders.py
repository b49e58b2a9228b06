"""Borders: NumPy arrays into a framework's own arrays and back, with dtype, strides and device kept."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Natives = Mapping[str, Any]
"""Native arrays by name."""

Pullback = Callable[[Any], dict[str, Any]]
"""From an output gradient, of the type and shape of the output, to the gradient of each input; None for one that the
output does not depend on."""


class Border(Protocol):
    """One framework: its arrays from NumPy and back, and how its calls are made."""

    @property
    def name(self) -> str:
        """Name of the framework, which is also that of its package."""
        ...

    @property
    def layouts(self) -> tuple[str, ...]:
        """Names of `cases.layouts.LAYOUTS` that its arrays can have."""
        ...

    @property
    def grad_modes(self) -> tuple[str, ...]:
        """Modes in which calls can be made, "off" first."""
        ...

    @property
    def differentiates(self) -> bool:
        """Whether it has gradients."""
        ...

    def asarray(self, array: Array, device: str, *, requires_grad: bool = False) -> Any:
        """A native copy of `array`, strides kept where the framework has strides."""
        ...

    def copy(self, native: Any) -> Any:
        """A native copy of a native array, on its device; anything else is returned as it is."""
        ...

    def asnumpy(self, native: Any) -> Array:
        """A NumPy copy of a native array, bfloat16 as ml_dtypes.bfloat16; TypeError for anything else."""
        ...

    def grad_mode(self, mode: str) -> AbstractContextManager[Any]:
        """The context in which calls are made: "off", "on" or "inference"."""
        ...

    def vjp(self, function: Callable[[Natives], Any], inputs: Natives) -> tuple[Any, Pullback]:
        """What function(inputs) gives, an array or a dict of them, and how gradients come back from there.

        A pullback is called once. It can be part of a function that is differentiated in turn, the output gradient
        being one of its inputs.
        """
        ...

    def overwrite(self, native: Any) -> None:
        """Put other finite numbers into a native array, as a caller does who reuses it; nothing if it cannot change."""
        ...

    def work(self, function: Callable[[], Any]) -> int | None:
        """Call the function; the floating-point operations of its matrix products, None where nobody counts them."""
        ...

    def seed_random(self, seed: int) -> None:
        """Seed the framework's global generators, NumPy's included."""
        ...

    def get_random_state(self) -> tuple[Any, ...]:
        """The state of those generators; it compares equal as long as nobody draws or seeds."""
        ...

    def set_random_state(self, state: tuple[Any, ...]) -> None:
        """Bring back what `get_random_state` gave."""
        ...


def strided_copy(array: Array) -> tuple[Array, int, tuple[int, ...]]:
    """A flat copy of the memory behind `array`, and the offset and strides (in elements) that restore it."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not root.flags.c_contiguous:
        root = array = np.ascontiguousarray(array)
    itemsize = array.itemsize
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return root.reshape(-1).copy(), start // itemsize, tuple(n // itemsize for n in array.strides)


class Counter:
    """Counts the operations of matrix products on the arrays that it watches."""

    def __init__(self) -> None:
        self.operations = 0

    def watch(self, array: Array) -> Array:
        """The same memory, watched."""
        watched = array.view(Watched)
        watched.counter = self
        return watched


class Watched(np.ndarray):
    """An array whose matrix products are counted, as are those of what is computed from it."""

    counter: Counter | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.counter = getattr(source, "counter", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute as plain arrays do; a product (..., n, k) @ (..., k, m) takes 2 n k m operations."""
        counter = next((i.counter for i in inputs if isinstance(i, Watched) and i.counter), self.counter)
        plain = [np.asarray(i).view(np.ndarray) if isinstance(i, Watched) else i for i in inputs]
        if "out" in options:
            outs = options["out"]
            options["out"] = tuple(o.view(np.ndarray) if isinstance(o, Watched) else o for o in outs)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul and counter is not None:
            counter.operations += 2 * int(np.size(result)) * int(np.shape(plain[0])[-1])
        return counter.watch(result) if counter and isinstance(result, np.ndarray) else result


class NumpyBorder:
    """NumPy itself."""

    counter: Counter | None = None

    name = "numpy"
    layouts = ("contiguous", "transposed", "sliced", "inner", "expanded", "reversed")
    grad_modes = ("off",)
    differentiates = False

    def asarray(self, array: Array, device: str, *, requires_grad: bool = False) -> Array:
        """A copy with the same strides."""
        flat, offset, strides = strided_copy(array)
        if not flat.size:
            return array.copy()
        view = np.lib.stride_tricks.as_strided
        made = view(flat[offset:], array.shape, tuple(n * array.itemsize for n in strides))
        return made if self.counter is None else self.counter.watch(made)

    def copy(self, native: Any) -> Any:
        """A copy of an ndarray."""
        return native.copy() if isinstance(native, np.ndarray) else native

    def asnumpy(self, native: Any) -> Array:
        """A copy of an ndarray."""
        if not isinstance(native, np.ndarray):
            raise TypeError(f"a numpy.ndarray was expected, got {type(native).__name__}")
        return np.array(native)  # no subclass, such as those that are counted

    def grad_mode(self, mode: str) -> AbstractContextManager[Any]:
        """NumPy has no grad modes."""
        return nullcontext()

    def vjp(self, function: Callable[[Natives], Any], inputs: Natives) -> tuple[Any, Pullback]:
        """NumPy has no gradients."""
        raise TypeError("NumPy has no gradients")

    def overwrite(self, native: Array) -> None:
        """Ones in place of everything."""
        if native.flags.writeable:
            native[...] = 1

    def work(self, function: Callable[[], Any]) -> int | None:
        """Counted where matrix products meet an array that was handed over, or one made of it."""
        self.counter = Counter()
        try:
            function()
            return self.counter.operations
        finally:
            self.counter = None

    # NumPy's global generator is watched, not used: hence the calls that NPY002 advises against.

    def seed_random(self, seed: int) -> None:
        """Seed NumPy's global generator."""
        np.random.seed(seed % 2**32)  # noqa: NPY002

    def get_random_state(self) -> tuple[Any, ...]:
        """State of NumPy's global generator."""
        kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        return (kind, tuple(np.asarray(keys).tolist()), *rest)

    def set_random_state(self, state: tuple[Any, ...]) -> None:
        """Set NumPy's global generator."""
        np.random.set_state(state)  # noqa: NPY002


class TorchBorder:
    """PyTorch, imported when the border is made."""

    name = "torch"
    layouts = ("contiguous", "transposed", "sliced", "inner", "expanded")
    grad_modes = ("off", "on", "inference")
    differentiates = True

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")

    def asarray(self, array: Array, device: str, *, requires_grad: bool = False) -> Any:
        """A tensor on `device` with the same strides."""
        torch = self.torch
        flat, offset, strides = strided_copy(array)
        if array.dtype == ml_dtypes.bfloat16:
            tensor = torch.from_numpy(flat.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(flat)
        tensor = tensor.to(device)
        tensor = (
            tensor.as_strided(array.shape, strides, offset) if array.size else tensor.new_empty(array.shape)
        )
        return tensor.requires_grad_() if requires_grad and tensor.is_floating_point() else tensor

    def copy(self, native: Any) -> Any:
        """A copy of a tensor, on its device."""
        return native.detach().clone() if isinstance(native, self.torch.Tensor) else native

    def asnumpy(self, native: Any) -> Array:
        """A copy of a tensor, from any device."""
        torch = self.torch
        if not isinstance(native, torch.Tensor):
            raise TypeError(f"a torch.Tensor was expected, got {type(native).__name__}")
        if type(native) not in (torch.Tensor, torch.nn.Parameter) and native.numel() and _has_no_data(native):
            raise TypeError(
                f"a torch.Tensor with data was expected, got {type(native).__name__}, which has none"
            )
        tensor = native.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            return np.array(tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
        return np.array(tensor.numpy())

    def grad_mode(self, mode: str) -> AbstractContextManager[Any]:
        """no_grad, enable_grad or inference_mode."""
        torch = self.torch
        modes = {"off": torch.no_grad, "on": torch.enable_grad, "inference": torch.inference_mode}
        context: AbstractContextManager[Any] = modes[mode]()
        return context

    def vjp(self, function: Callable[[Natives], Any], inputs: Natives) -> tuple[Any, Pullback]:
        """Inputs that are part of no graph become leaves, in the same memory; None and constants give nothing."""
        torch = self.torch
        leaves = {
            name: native if native.requires_grad else native.detach() for name, native in inputs.items()
        }
        with torch.enable_grad():
            returned = function({name: leaf.requires_grad_() for name, leaf in leaves.items()})

        def pull(dout: Any) -> dict[str, Any]:
            outs = returned if isinstance(returned, Mapping) else {"": returned}
            douts = dout if isinstance(dout, Mapping) else {"": dout}
            live = [name for name, out in outs.items() if out is not None]
            given = [outs[name] for name in live], [douts[name] for name in live]
            found = torch.autograd.grad(
                given[0],
                list(leaves.values()),
                given[1],
                allow_unused=True,
                retain_graph=True,
                create_graph=any(d.requires_grad for d in douts.values()),
            )
            if any(gradient is None for gradient in found):
                # Of nodes that refuse to be differentiated autograd.grad goes round those that lead to no input.
                torch.autograd.backward(*given)
            return dict(zip(leaves, found, strict=True))

        return returned, pull

    def overwrite(self, native: Any) -> None:
        """Ones in place of everything."""
        with self.torch.inference_mode(native.is_inference()), self.torch.no_grad():
            native.fill_(1)

    def work(self, function: Callable[[], Any]) -> int | None:
        """Counted by PyTorch as operators are dispatched, whoever calls them."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            function()
        return int(counter.get_total_flops())

    def seed_random(self, seed: int) -> None:
        """Seed NumPy's and PyTorch's default generators."""
        NumpyBorder().seed_random(seed)
        self.torch.manual_seed(seed)

    def get_random_state(self) -> tuple[Any, ...]:
        """States of NumPy's and PyTorch's default generators, those of CUDA where it is in use."""
        torch = self.torch
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
        return (
            NumpyBorder().get_random_state(),
            *(bytes(state.numpy()) for state in (torch.get_rng_state(), *cuda)),
        )

    def set_random_state(self, state: tuple[Any, ...]) -> None:
        """Set them all."""
        torch = self.torch
        NumpyBorder().set_random_state(state[0])
        tensors = [torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in state[1:]]
        torch.set_rng_state(tensors[0])
        if len(tensors) > 1:
            torch.cuda.set_rng_state_all(tensors[1:])


def _has_no_data(tensor: Any) -> bool:
    """Whether a tensor of a subclass is a promise to compute, or a wrapper of other tensors."""
    try:
        return int(tensor.data_ptr()) == 0
    except RuntimeError:
        return True


class JaxBorder:
    """JAX, imported when the border is made; its arrays have no strides and its random state is explicit."""

    name = "jax"
    layouts = ("contiguous",)
    grad_modes = ("off",)
    differentiates = True

    def __init__(self) -> None:
        self.jax = importlib.import_module("jax")

    def asarray(self, array: Array, device: str, *, requires_grad: bool = False) -> Any:
        """A JAX array of the same values; float64 needs jax_enable_x64."""
        native = self.jax.numpy.asarray(np.ascontiguousarray(array))
        if native.dtype != array.dtype:
            raise TypeError(f"JAX made {native.dtype} of {array.dtype}; set jax_enable_x64 or use --dtype")
        return native

    def copy(self, native: Any) -> Any:
        """Arrays do not change in JAX."""
        return native

    def asnumpy(self, native: Any) -> Array:
        """A copy of a JAX array."""
        if not isinstance(native, self.jax.Array):
            raise TypeError(f"a jax.Array was expected, got {type(native).__name__}")
        return np.array(native)

    def grad_mode(self, mode: str) -> AbstractContextManager[Any]:
        """JAX has no grad modes."""
        return nullcontext()

    def vjp(self, function: Callable[[Natives], Any], inputs: Natives) -> tuple[Any, Pullback]:
        """That of JAX."""
        returned, pull = self.jax.vjp(function, dict(inputs))
        return returned, lambda dout: dict(pull(dout)[0])

    def overwrite(self, native: Any) -> None:
        """JAX's arrays never change."""

    def work(self, function: Callable[[], Any]) -> int | None:
        """JAX does not count."""
        function()
        return None

    def seed_random(self, seed: int) -> None:
        """JAX has no global generator; NumPy's is seeded."""
        NumpyBorder().seed_random(seed)

    def get_random_state(self) -> tuple[Any, ...]:
        """State of NumPy's global generator."""
        return NumpyBorder().get_random_state()

    def set_random_state(self, state: tuple[Any, ...]) -> None:
        """Set NumPy's global generator."""
        NumpyBorder().set_random_state(state)


BORDERS: dict[str, Callable[[], Border]] = {"numpy": NumpyBorder, "torch": TorchBorder, "jax": JaxBorder}


def unwrapped(function: Any) -> Any:
    """What functools.partial, however often, was put around."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def candidates(function: Any) -> list[str]:
    """Frameworks that `function` may speak, likeliest first: by its own word, or where it comes from and what it uses.

    Its own word is an attribute `border`, as adapters have it.
    """
    inner = unwrapped(function)
    stated = getattr(inner, "border", None)
    if isinstance(stated, str) and stated in BORDERS:
        return [stated]
    inner = getattr(inner, "__wrapped__", inner)
    home = str(getattr(inner, "__module__", "") or "").partition(".")[0]
    scope: dict[str, Any] = getattr(inner, "__globals__", {})
    used = {value.__name__.partition(".")[0] for value in scope.values() if isinstance(value, ModuleType)}
    used |= {
        str(getattr(value, "__module__", "") or "").partition(".")[0]
        for value in scope.values()
        if callable(value)
    }
    # A torch function often uses NumPy too, hardly ever the other way round.
    order = [name for name in ("torch", "jax", "numpy") if name == home]
    order += [name for name in ("torch", "jax", "numpy") if name in used and name not in order]
    order += [name for name in ("numpy", "torch", "jax") if name not in order]
    return [name for name in order if importlib.util.find_spec(name) is not None]
