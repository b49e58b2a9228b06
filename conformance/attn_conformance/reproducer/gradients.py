"""Scripts about gradients: one call, its backward pass, and the element of a gradient that is wrong. PyTorch alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import (
    Call,
    Case,
    Forward,
    ForwardCase,
    KernelCase,
    Upstream,
    build,
    build_forward,
    build_upstream,
    merge,
    split,
    upstream,
)
from attn_conformance.checks.gradients import HEADS, of_forward, of_kernel
from attn_conformance.differentiated import Pulled
from attn_conformance.drop_in import DropIn
from attn_conformance.gradients import Gradient, compared
from attn_conformance.implementation import PARAMETERS
from attn_conformance.judge import Element, Failed, NotAsked
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.registry import Check
from attn_conformance.reproducer.differences import TINY
from attn_conformance.reproducer.imports import importing
from attn_conformance.reproducer.literals import expression
from attn_conformance.reproducer.script import MOST_LINES, fitted, header, imports, indented, number_text
from attn_conformance.reproducer.simpler import VARIANTS, simpler
from attn_conformance.reproducer.views import viewed
from attn_conformance.subject import Subject
from attn_reference.requirements import load_requirements

Array = NDArray[Any]

LATER = "later_calls_leave_gradients_alone"
"""The check in which another call comes before the backward pass."""

SECOND = "gradients of gradients, whose closed form would be most of the script"
ELSEWHERE = "scripts about gradients are written for PyTorch, and for heads before tokens"


@dataclass(frozen=True, eq=False)
class Shown:
    """A call with a wrong gradient.

    wanted: the inputs whose gradients are asked for. of, element: what is wrong; no element where the backward pass
    changes the output gradient.
    """

    call: Call | Forward
    dout: Upstream
    wanted: tuple[str, ...]
    of: str
    element: Element | None = None


def gradient_drafts(check: Check, subject: Subject, case: Case, reasons: list[str]) -> Iterator[str]:
    """Scripts that show a failure of a check of gradients; why there are none is added to reasons."""
    if subject.border.name != "torch" or subject.convention.axes != "BHTD":
        reasons.append(ELSEWHERE)
    elif check.requirement == "GRAD-6":
        reasons.append(SECOND)
    else:
        assert isinstance(case, KernelCase | ForwardCase)
        reasons.append("no gradient of that call is further from the reference's than the bound")
        for variant in VARIANTS:
            for shown in _shown(check, subject.open(), case, variant):
                text = fitted(_Writer(check, subject, case, shown).text())
                if text is not None:
                    yield text
                else:
                    reasons.append(f"it takes more than {MOST_LINES} lines")


def _shown(check: Check, subject: Subject, case: KernelCase | ForwardCase, variant: str) -> Iterator[Shown]:
    """The call of a case, with simpler numbers, and what is wrong with its gradients."""
    call = build(case) if isinstance(case, KernelCase) else build_forward(case)
    plain = build_upstream(case)
    arrays = {**call.arrays(), **(call.params if isinstance(call, Forward) else {}), "dout": plain.values}
    # The numbers of merged heads are simple as they are handed over.
    flat = {name: merge(a) if _merged(call, name) else a for name, a in arrays.items()}
    made = dict(zip(flat, simpler(list(flat.items()), variant), strict=True))
    if plain.layout in upstream.EXPANDED:  # equal numbers stay so
        made["dout"] = np.array(upstream.arrange(made["dout"], plain.layout))
    made = {name: split(a, case.heads) if _merged(call, name) else a for name, a in made.items()}
    dout = replace(plain, values=made.pop("dout"))
    call = _with(call, made)
    wanted = _wanted(check, case, call)
    try:
        asked, pulled = _pulled(subject, call, dout, wanted, later=check.name == LATER)
    except (Failed, NotAsked):
        return
    wrong = [(of, e) for of in asked if (e := _element(pulled.gradients[of], asked[of])) is not None]
    if wrong:
        of, element = max(
            wrong, key=lambda found: (found[1].limit > TINY, abs(found[1].got - found[1].expected))
        )
        yield Shown(call, dout, wanted, of, element)
    elif pulled.dout.tobytes() != _native(call, dout).tobytes():
        yield Shown(call, dout, wanted, wanted[0])


def _merged(call: Call | Forward, name: str) -> bool:
    """Whether an array of split heads is handed over with merged ones."""
    return isinstance(call, Call) and call.window == "qkv" and name != "mask"


def _wanted(check: Check, case: KernelCase | ForwardCase, call: Call | Forward) -> tuple[str, ...]:
    """The inputs whose gradients a check asks for."""
    if isinstance(call, Forward):
        return ("mask",) if check.requirement == "GRAD-4" else tuple(of_forward(call))
    return of_kernel(case.seed) if check.requirement == "GRAD-4" else HEADS


def _with(call: Call | Forward, arrays: Mapping[str, Array]) -> Call | Forward:
    named: dict[str, Any] = {name: array for name, array in arrays.items() if "." not in name}
    if isinstance(call, Forward):
        params = {name: array for name, array in arrays.items() if "." in name}
        return replace(call, params=params, **named)
    return replace(call, **named)


def _pulled(
    subject: Subject, call: Call | Forward, dout: Upstream, wanted: tuple[str, ...], *, later: bool
) -> tuple[dict[str, Gradient], Pulled]:
    """What is allowed for the gradients of a call, and what came back."""
    if isinstance(call, Forward):
        assert isinstance(subject, ModuleSubject)
        handle = subject.build(call.params, call.n_head, call.is_causal)
        posed = subject.differentiated_forward(call, handle, wanted)
        return subject.answer_forward_gradients(call, dout, posed.inputs), subject.gradients(posed, dout)

    def between() -> None:
        if later:
            subject.run(replace(call, q=-call.q, grad="on"))

    posed = subject.differentiated(call, wanted)
    return subject.answer_gradients(call, dout, wanted), subject.gradients(posed, dout, between)


def _element(got: Array | None, gradient: Gradient) -> Element | None:
    comparison = compared(np.zeros(gradient.shape) if got is None else got, gradient)
    if comparison.first is None or comparison.worst is None:
        return None
    return max(comparison.worst, comparison.first, key=lambda e: (e.limit > TINY, abs(e.got - e.expected)))


def _native(call: Call | Forward, dout: Upstream) -> Array:
    """The output gradient in the shape of the result."""
    return merge(dout.values) if _merged(call, "dout") else dout.values


class _Writer:
    """Writes one script."""

    def __init__(self, check: Check, subject: Subject, case: Case, shown: Shown) -> None:
        self.check, self.subject, self.case, self.shown = check, subject, case, shown
        self.call, self.id = shown.call, check.requirement
        self.causal = self.call.is_causal
        self.forward = isinstance(self.call, Forward)
        self.merged = _merged(self.call, "dout")
        self.arrays = self.call.arrays() if isinstance(self.call, Forward) else subject.arguments(self.call)
        self.heads = self.call.n_head if isinstance(self.call, Forward) else self.call.heads
        self.params = self.call.params if isinstance(self.call, Forward) else {}
        if not getattr(subject, "key_bias", False):
            self.params = {name: array for name, array in self.params.items() if name != "key.bias"}

    def text(self) -> str:
        """The whole script."""
        branches = [
            'if sys.argv[1:] == ["reference"]:',
            *indented(self._reference()),
            "else:",
            *indented(self._target()),
        ]
        code = [*self._defined(), "", *branches, "", *self._verdict()]
        requirement = load_requirements()[self.id]
        head = header(requirement, self.subject, self.case)
        return "\n".join([*head, *imports("\n".join(code)), *code, ""])

    # --- arrays

    def _defined(self) -> list[str]:
        lines = [f"{name} = {expression(np.ascontiguousarray(a))}" for name, a in self.arrays.items()]
        dout, layout = _native(self.call, self.shown.dout), self.shown.dout.layout
        lines.append(f"dout = {expression(dout)}")
        if layout in upstream.EXPANDED:
            strides = upstream.arrange(dout, layout).strides
            lines.append(f"dout = np.lib.stride_tricks.as_strided(dout, strides={strides})")
        elif layout != "contiguous":
            lines.append(f"dout = {viewed('dout', layout, dout)}")
        if self.shown.element is None:
            lines.append("before = dout.tobytes()")
        if self.params:
            texts = {name: expression(array) for name, array in self.params.items()}
            lines.append("weights = {")
            for text in dict.fromkeys(texts.values()):
                names = [name for name in texts if texts[name] == text]
                alike = ", ".join(f'"{name}"' for name in names)
                one = f"    {alike}: {text},"
                lines += (one if len(names) == 1 else f"    **dict.fromkeys([{alike}], {text}),").split("\n")
            lines.append("}")
        return lines

    def _given(self) -> str:
        return ", ".join(self.arrays)

    # --- the reference

    def _reference(self) -> list[str]:
        mask, of = "mask" if "mask" in self.arrays else "None", self.shown.of
        if isinstance(self.call, Forward):
            src = "x" if self.call.xa is None else "xa"
            options = f"n_head={self.heads}, mask={mask}, is_causal={self.causal}"
            return [
                "from attn_reference import lower_forward, solve_forward_backward",
                "",
                "cast = {name: w.astype(x.dtype) for name, w in weights.items()}",
                f"problem = lower_forward(cast, x, {src}, {options})",
                f'found = solve_forward_backward(problem, dout.astype(float)).gradients["{of}"]',
            ]
        lines = ["from attn_reference import lower, solve_backward"]
        q, dout = "q, k, v", "dout"
        if self.merged:
            lines.append("from attn_reference.forward import merge_heads, split_heads")
            q, dout = (
                f"*(split_heads(a, {self.heads}) for a in (q, k, v))",
                f"split_heads(dout, {self.heads})",
            )
        name, shape = ("bias", ".reshape(mask.shape)") if of == "mask" else (of, "")
        lines += [
            "",
            f"problem = lower({q}, {mask}, {self.causal})",
            f'found = solve_backward(problem, {dout}.astype(float)).gradients["{name}"]{shape}',
        ]
        return [*lines, "found = merge_heads(found)"] if self.merged and of != "mask" else lines

    # --- the target

    def _target(self) -> list[str]:
        adapter = not isinstance(self.subject, KernelSubject) and not self._drop_in
        alias = "target" if adapter else "Module" if self._drop_in else "attention"
        imported = importing(
            self.subject.target, alias, made_by=type(self._implementation) if adapter else None
        )
        first = [line for line in imported if line.startswith("sys.path")]
        lines = [*first, "import torch", *imported[len(first) :], "", *self._array()]
        lines += self._built(adapter) if isinstance(self.subject, ModuleSubject) else []
        arrays = f"dict({', '.join(f'{name}={name}' for name in self.arrays)}).items()"
        of, wanted = self.shown.of, self.shown.wanted
        if adapter and callable(getattr(self._implementation, "gradients", None)):
            return [
                *lines,
                f"given = {{name: array(a) for name, a in {arrays}}}",
                f'found = target.gradients(module, given, array(dout))["{of}"]',
            ]
        which = 'name == "mask"' if wanted == ("mask",) else 'name != "mask"'
        which = "" if set(self.arrays) <= set(wanted) else which
        lines += [f"given = {{name: array(a).requires_grad_({which}) for name, a in {arrays}}}"]
        if self.check.name == LATER:
            other = self._called(adapter).replace('given["q"]', '-given["q"]')
            lines += [f"out = {self._called(adapter)}", other, "out.backward(array(dout))"]
        else:
            lines += [f"{self._called(adapter)}.backward(array(dout))"]
        parameters = "dict(module.named_parameters())" if of in self.params else "given"
        return [*lines, f'found = {parameters}["{of}"].grad']

    @property
    def _implementation(self) -> Any:
        return getattr(self.subject, "implementation", None)

    @property
    def _drop_in(self) -> bool:
        return type(self._implementation) is DropIn

    def _array(self) -> list[str]:
        kinds = {array.dtype.name for array in (*self.arrays.values(), *self.params.values())}
        to = "" if self.subject.device == "cpu" else f'.to("{self.subject.device}")'
        if "bfloat16" not in kinds:
            made = [f"return torch.from_numpy(values){to}"] if to else []
        elif kinds == {"bfloat16"}:
            made = [f"return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16){to}"]
        else:
            made = [
                'if values.dtype == "bfloat16":',
                f"    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16){to}",
                f"return torch.from_numpy(values){to}",
            ]
        return ["def array(values):", *indented(made), ""] if made else ["array = torch.from_numpy"]

    def _built(self, adapter: bool) -> list[str]:
        """The module, with the weights that count."""
        size = (self.arrays["x"] if self.forward else self.arrays["q"]).shape[2]
        weights = "{name: array(w) for name, w in weights.items()}"
        if adapter and self.params:
            return [f"module = target.build({size}, {self.heads}, {self.causal}, {weights})"]
        if adapter:
            names = [*PARAMETERS, *(["key.bias"] if getattr(self.subject, "key_bias", False) else [])]
            zero = f'array(np.zeros(({size},) * (1 + name.endswith("weight")), q.dtype))'
            return [
                f'names = "{" ".join(names)}".split()',
                f"zeros = {{name: {zero} for name in names}}",
                f"module = target.build({size}, {self.heads}, {self.causal}, zeros)",
            ]
        kind = next(iter((self.params or self.arrays).values())).dtype.name
        causal = ", causal=True" if self.causal else ""
        made = [f"module = Module({size}, {self.heads}{causal}).to(torch.{kind}).eval()"]
        return [*made, f"module.load_state_dict(module.state_dict() | {weights})"] if self.params else made

    def _called(self, adapter: bool) -> str:
        if isinstance(self.subject, ModuleSubject):
            method = "forward" if self.forward else "attention" if adapter else "qkv_attention"
            given = '**{**given, "q": given["q"]}' if self.check.name == LATER else "**given"
            return f"target.{method}(module, {given})" if adapter else f"module.{method}({given})"
        assert isinstance(self.call, Call)
        names, options = self.subject.convention.names, [f'given["{name}"]' for name in "qkv"]
        if self.call.mask is not None:
            role = "bias" if "bias" in names and self.call.mask.dtype != np.bool_ else "mask"
            options.append(f'{names[role]}=given["mask"]')
        if self.causal:
            options.append(f"{names['is_causal']}=True")
        if "gqa" in names and self.call.q.shape[1] != self.call.k.shape[1]:
            options.append(f"{names['gqa']}=True")
        return f"attention({', '.join(options)})"

    # --- what is judged

    def _verdict(self) -> list[str]:
        element, of = self.shown.element, self.shown.of
        if element is None:
            return [
                "if dout.tobytes() != before:",
                f'    sys.exit("{self.id}: the backward pass changed the output gradient in place")',
            ]
        at = ", ".join(map(str, self._place(element.index)))
        lines = [f"got = 0.0 if found is None else float(found[{at}])"]
        expected = number_text(element.expected, element.limit)
        limit = f"{element.limit * 1.005:.3g}"
        message = f"the gradient of {of} at [{at}] is {{got:.9g}}; expected {expected}, bound {limit}"
        return [
            *lines,
            f"if not abs(got - {expected}) <= {limit}:".replace("- -", "+ "),
            f'    sys.exit(f"{self.id}: {message}")',
        ]

    def _place(self, index: Iterable[int]) -> tuple[int, ...]:
        """Where an element is in the implementation's own shape."""
        at = tuple(index)
        if not self.merged or self.shown.of == "mask":
            return at
        size = self.arrays[self.shown.of].shape[2] // self.heads
        return at[0], at[2], at[1] * size + at[3]
