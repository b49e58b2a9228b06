"""The subject: one implementation as the checks see it, NumPy in and NumPy out."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from numpy.typing import NDArray

from attn_conformance.audit import listening
from attn_conformance.borders import Border, Natives
from attn_conformance.cases import Call, Upstream, layouts
from attn_conformance.conventions import Convention
from attn_conformance.differentiated import Differentiated, Pulled
from attn_conformance.endings import by_user, described, over, when_over
from attn_conformance.gradients import Gradient, ask_gradients
from attn_conformance.judge import Answer, Failed, NotAsked, ask
from attn_conformance.scope import Scope
from attn_reference import Claims, Problem

Array = NDArray[Any]


class Raised(Failed):
    """The implementation raised where it had to answer; `error` is what it raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"raised {described(error)}")
        self.error = error


@contextmanager
def blaming() -> Iterator[None]:
    """Calls of the implementation: its exceptions become Raised, its warnings are its own affair.

    Also those that end a program, unless the user has pressed Ctrl-C. A fork that a call has made, and that returns
    from it, ends here: it would go on in this process's place, and each of its calls would fork again.
    """
    process = os.getpid()
    try:
        with warnings.catch_warnings(), listening():
            warnings.simplefilter("ignore")
            yield
    except Failed:
        raise
    except BaseException as error:
        if by_user(error):
            raise
        raise _raised(error) from error
    finally:
        if os.getpid() != process:
            os._exit(0)


def _raised(error: BaseException) -> Raised:
    """The failure that an exception is; where it means that this process is of no more use, that is told at once."""
    raised = Raised(error)
    if over(raised.message):
        for tell in when_over:
            tell(raised.message)
    return raised


@dataclass(frozen=True, eq=False)
class Result:
    """What a call gave: out (B, H, T, Dv) and lse (B, H, T) or None as NumPy copies; and out's device, and itself."""

    out: Array
    lse: Array | None
    device: str
    native: Any


class Subject(ABC):
    """An implementation under judgement, whatever its kind."""

    kind: ClassVar[Literal["kernel", "module"]]
    target: str
    convention: Convention
    border: Border
    claims: Claims
    device: str
    foreign: bool  # from elsewhere than these packages, so that it may not call the reference
    assumed: frozenset[str]  # claims that it has not stated, as `assumed.assumed` names them
    state: dict[str, Any]  # of the process, before the first call

    @abstractmethod
    def open(self) -> Self:
        """The subject for one example: nothing that earlier examples did is left in it."""

    @property
    @abstractmethod
    def scope(self) -> Scope:
        """What may be drawn for this subject."""

    @abstractmethod
    def lower(self, call: Call) -> Problem:
        """The problem that a call poses to this subject."""

    @abstractmethod
    def arguments(self, call: Call) -> dict[str, Array]:
        """The arrays that a call hands over, in the implementation's own shapes, by argument name."""

    @abstractmethod
    def run(self, call: Call, natives: dict[str, Any] | None = None) -> Result:
        """Make a call; Raised for any exception of the implementation, Failed for a result of a wrong type.

        natives: the arguments that `natives(call)` made, where the caller wants to look at them afterwards.
        """

    @abstractmethod
    def differentiated(self, call: Call, of: Iterable[str]) -> Differentiated:
        """A call as a function of those of q, k, v and a floating mask that are named in `of`."""

    @abstractmethod
    def claiming(self, claims: Claims) -> Self:
        """The same implementation under other claims."""

    def answer(self, call: Call) -> Answer:
        """What the oracle allows for a call."""
        return ask(self.lower(call), call.dtype, self.claims.arithmetic)

    def prepare(self, call: Call) -> None:
        """Build what a call needs besides its arguments: of a kernel, nothing."""
        return

    def attention(self, call: Call) -> Array:
        """The output of a call, (B, H, T, Dv); Failed if it raises or returns something of another shape."""
        out = self.run(call).out
        expected = (*call.q.shape[:3], call.v.shape[3])
        if out.shape != expected:
            raise Failed(f"returned shape {out.shape}, expected (B, H, T, Dv) = {expected}")
        return out

    def natives(self, call: Call) -> dict[str, Any]:
        """The array arguments of a call as the framework's own arrays, fresh copies in the call's layout."""
        natives = {}
        for name, array in self.arguments(call).items():
            if name != "mask" and array.ndim >= 3 and call.lays_out(name):
                array = layouts.arrange(array, call.layout, expandable=name in ("k", "v", "xa"))
            natives[name] = self.border.asarray(array, self.device, requires_grad=call.grad == "on")
        return natives

    def answer_gradients(self, call: Call, dout: Upstream, of: Iterable[str]) -> dict[str, Gradient]:
        """What the oracle allows for the gradients of a call's inputs."""
        arrays = call.arrays()
        inputs = {name: arrays[name] for name in of}
        return ask_gradients(self.lower(call), dout.exact, inputs, call.dtype, self.claims.arithmetic)

    def gradients(
        self, posed: Differentiated, dout: Upstream, between: Callable[[], None] = lambda: None
    ) -> Pulled:
        """The gradients of a call; Failed for one of another shape or dtype than its input's.

        between: called when the call has returned, and before the backward pass begins.
        """
        native = self._dout(posed, dout)
        pull = posed.own
        if pull is None:
            with blaming():
                out, pull = self.border.vjp(posed.function, posed.inputs)
            self._look_at(out, posed.shape)
            between()
        with blaming(), self.border.grad_mode("on" if self.border.differentiates else "off"):
            found = pull(native)
        gradients = {name: self._gradient(posed, name, found.get(name)) for name in posed.inputs}
        return Pulled(gradients, self.border.asnumpy(native))

    def second_gradients(
        self, call: Call, dout: Upstream, directions: Mapping[str, Array]
    ) -> dict[str, Array | None]:
        """The gradients of the sum of directions times first gradients, in q, k, v and dout."""
        posed = self.differentiated(call, ("q", "k", "v"))
        if posed.own is not None:
            raise NotAsked("the implementation computes gradients itself, and no gradients of these")
        q, k, v = (directions[name] for name in "qkv")
        along = self.natives(replace(call, q=q, k=k, v=v, mask=None))

        def first(named: Natives) -> Any:
            _, pull = self.border.vjp(posed.function, {name: named[name] for name in posed.inputs})
            return pull(named["dout"])

        with blaming():
            _, pull = self.border.vjp(first, {**posed.inputs, "dout": self._dout(posed, dout)})
            found = pull(along)
        return {name: self._gradient(posed, name, found.get(name)) for name in (*posed.inputs, "dout")}

    def _dout(self, posed: Differentiated, dout: Upstream) -> Any:
        return self.border.asarray(posed.outward(dout), self.device)

    def _look_at(self, out: Any, shape: tuple[int, ...]) -> None:
        if (got := self.received(out).shape) != shape:
            raise Failed(f"returned shape {got}, expected {shape}")

    def _gradient(self, posed: Differentiated, name: str, native: Any) -> Array | None:
        """A gradient as it is judged, of the shape and dtype of its input."""
        if native is None:
            return None
        gradient = self.received(native)
        if name in posed.inputs:
            given = self.border.asnumpy(posed.inputs[name])
            for what, got, expected in (
                ("shape", gradient.shape, given.shape),
                ("dtype", gradient.dtype.name, given.dtype.name),
            ):
                if got != expected:
                    raise Failed(f"the gradient of {name} has {what} {got}, its input has {expected}")
        return posed.inward(name, gradient)

    def read(self, natives: dict[str, Any]) -> dict[str, Array]:
        """The values of native arguments."""
        return {name: self.border.asnumpy(native) for name, native in natives.items()}

    def device_of(self, returned: Any) -> str:
        """The device that a result says it is on, "cpu" if it does not say."""
        with blaming():
            return str(getattr(returned, "device", "cpu"))

    def received(self, returned: Any) -> Array:
        """What the implementation returned, as a NumPy copy; Failed if it is no array of its framework.

        A device works while the call has long returned: what goes wrong there shows when the result is fetched.
        """
        try:
            return self.border.asnumpy(returned)
        except TypeError as error:
            raise Failed(
                f"returned the wrong type: {described(error).removeprefix('TypeError: ')}"
            ) from error
        except Exception as error:
            raise _raised(error) from error
