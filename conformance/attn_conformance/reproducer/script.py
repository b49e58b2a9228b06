"""Scripts: the events that a finding rests on, as straight code that ends in its condition."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from attn_conformance.cases import Case
from attn_conformance.faults import FAULTS
from attn_conformance.reproducer.differences import NAMES, Finding
from attn_conformance.reproducer.imports import NO_VERDICT
from attn_conformance.reproducer.literals import expression
from attn_conformance.reproducer.planning import Plan
from attn_conformance.reproducer.recording import Event, Log, Ref
from attn_conformance.reproducer.settings import GENERATORS, SETTINGS
from attn_conformance.reproducer.spelling import AdapterSpelling, DropInSpelling, spelling
from attn_conformance.reproducer.views import viewed
from attn_conformance.subject import Subject
from attn_reference.requirements import Requirement

WIDTH = 110
"""Columns of a script's texts."""

MOST_LINES = 39
"""Lines of a script."""

ROLLED = r"np\.roll\((?P<eye>np\.eye\([^)]*\)), (?P<by>\d+), axis=1\)"
"""An expression of `literals` for a matrix that moves every feature by some places."""


@dataclass(frozen=True)
class Subjects:
    """What scripts about one failure have in common."""

    requirement: Requirement
    subject: Subject
    case: Case
    log: Log
    deadly: str | None = None


def written(about: Subjects, finding: Finding, plan: Plan) -> str | None:
    """The text of a script; None where it cannot be said in fewer than 40 lines."""
    return fitted(_Writer(about, finding, plan).text())


def fitted(text: str) -> str | None:
    """The text, closer set if need be; None where it is too long even so."""
    if text.count("\n") > MOST_LINES:
        text = re.sub(r"\n\n(?=    |sys)", "\n", text)
    return text if text.count("\n") <= MOST_LINES else None


def header(requirement: Requirement, subject: Subject, case: Case) -> list[str]:
    """The first lines of a script: what fails, with which versions, on which case."""
    sentence = f"{requirement.id}: {requirement.text}".replace("\\", "\\\\").replace('"', "'")
    head = textwrap.wrap(sentence, WIDTH - 6)
    head = [f'"""{head[0]}', *head[1:]]
    head[-1] += '"""'
    packages = dict.fromkeys(["attn-conformance", subject.border.name])
    note = f"{', '.join(_versions(*packages))}: {case.describe()}"
    return [*head, "", *textwrap.wrap(note, WIDTH, initial_indent="# ", subsequent_indent="# ")]


def imports(code: str) -> list[str]:
    """The imports that lines of code need, frameworks left out."""
    standard = ["base64", "copy", "faulthandler", "importlib", "os", "pickle", "random", "re", "sys", "zlib"]
    lines = [f"import {name}" for name in standard if re.search(rf"(?<![\w.]){name}\.", code)]
    if re.search(r"\bsuppress\(", code):
        lines.append("from contextlib import suppress")
    third = [name for name in ("ml_dtypes",) if f"{name}." in code]
    third += ["numpy as np"] if re.search(r"\bnp\.", code) else []
    more = [f"import {name}" for name in third]
    return [*lines, "", NO_VERDICT, "", *more, *([""] if more else [])]


class _Writer:
    """Writes one script."""

    def __init__(self, about: Subjects, finding: Finding, plan: Plan) -> None:
        self.about = about
        self.finding = finding
        self.plan = plan
        self.log = about.log
        self.id = about.requirement.id
        self.events = [self.log.events[n] for n in plan.events]
        loads = plan.weights and finding.kind != "random"
        self.words = spelling(about.subject, self.log, self.events, loads=loads)
        self.names: dict[Any, str] = {}
        self.taken: set[str] = set()
        self.body: list[str] = []
        self.loads = plan.weights or isinstance(self.words, AdapterSpelling)

    def text(self) -> str:
        """The whole script."""
        if self.about.deadly == "hang":
            self.body.append(
                "faulthandler.dump_traceback_later(30, exit=True)  # one of these calls never ends"
            )
        elif self.about.deadly == "crash":
            self.body.append("# One of these calls ends the process.")
        for number, event in zip(self.plan.events, self.events, strict=True):
            if number == self.finding.event and self.finding.kind != "deadly":
                self._verdict(event)
            elif number == self.finding.other and self.finding.kind == "repeat":
                self._first(event)
            else:
                self._event(event)
        reference, target = self.words.reference(), self.words.target()
        if self.words.native:
            last = (
                reference.index("") if any(line.startswith("def ") for line in reference) else len(reference)
            )
            reference = [*reference[:last], "array = np.asarray", *reference[last:]]
        branches = ['if sys.argv[1:] == ["reference"]:', *indented(reference), "else:", *indented(target)]
        code = [*branches, "", *self.body]
        head = header(self.about.requirement, self.about.subject, self.about.case)
        return "\n".join([*head, *imports("\n".join(code)), *code, ""])

    # --- arrays

    def _spell(self, value: Any) -> str:
        if isinstance(value, Ref):
            name = self._array(value)
            return f"array({name})" if self.words.native else name
        return self._weights(value) if isinstance(value, dict) else repr(value)

    def _array(self, ref: Ref) -> str:
        """The name of an array, which is defined where it is first used."""
        held = self.log.arrays[ref.number]
        layout = held.layout if self.plan.views else "contiguous"
        changes = any(
            ref in event.outcome.changed or (event.act == "write" and event.of == ref.number)
            for event in self.events
        )
        same = (held.first.dtype.name, held.first.shape, held.first.tobytes(), layout)
        key = ref if changes else same
        if key not in self.names:
            name = self.names[key] = self._name(held.name)
            self._define(name, expression(held.first))
            if layout != "contiguous":
                self.body.append(f"{name} = {viewed(name, layout, held.first)}")
        return self.names[key]

    def _name(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.taken:
            count += 1
            name = f"{wish}{count}"
        self.taken.add(name)
        return name

    def _define(self, name: str, value: str, indent: str = "", end: str = "") -> None:
        self.body += (
            [indent + line for line in f"{name}{value}{end}".split("\n")]
            if end
            else (f"{name} = {value}".split("\n"))
        )

    def _weights(self, params: dict[str, Ref]) -> str:
        """The name of a dict of parameters, without a key.bias, which has no influence."""
        arrays = {
            name: self.log.arrays[ref.number].first
            for name, ref in params.items()
            if name != "key.bias" or isinstance(self.words, AdapterSpelling)
        }
        key = tuple((name, array.dtype.name, array.tobytes()) for name, array in arrays.items())
        if key not in self.names:
            name = self.names[key] = self._name("weights")
            self._define_weights(name, arrays)
        return self.names[key]

    def _define_weights(self, name: str, arrays: dict[str, Any]) -> None:
        texts = {parameter: expression(array) for parameter, array in arrays.items()}
        rolls = [
            re.fullmatch(ROLLED, text) for parameter, text in texts.items() if parameter.endswith("weight")
        ]
        biases = {text for parameter, text in texts.items() if parameter.endswith(".bias")}
        if all(rolls) and len(biases) == 1:
            first = rolls[0]
            assert first is not None
            eye, moved = first["eye"], ", ".join(roll["by"] for roll in rolls if roll is not None)
            if "parts" not in self.taken:
                self.taken.add("parts")
                self.body.append('parts = ("query", "key", "value", "out")')
            rolled = f"np.roll({eye}, n, axis=1)"
            self.body += [
                f'{name} = {{f"{{p}}.weight": {rolled} for p, n in zip(parts, ({moved}))}}',
                f'{name} |= {{f"{{p}}.bias": {biases.pop()} for p in parts if p != "key"}}',
            ]
            return
        self.body.append(f"{name} = {{")
        for text in dict.fromkeys(texts.values()):
            alike = [parameter for parameter in texts if texts[parameter] == text]
            if len(alike) == 1:
                self._define(f'"{alike[0]}": ', text, "    ", ",")
            else:
                parts = ", ".join(f'"{parameter}"' for parameter in alike)
                self._define(f"**dict.fromkeys([{parts}], ", text, "    ", "),")
        self.body.append("}")

    # --- events

    def _event(self, event: Event) -> None:
        if event.act == "write":
            name = self._array(Ref(event.of))
            values = event.given["values"]
            self.body.append(f"{name}[...] = {'1' if np.all(values == 1) else expression(values)}")
            return
        lines = self.words.lines(event, self._spell)
        if event.outcome.error is not None:
            lines = ["with suppress(Exception):", *indented(lines)]
        self.body += lines
        self._load(event)

    def _load(self, event: Event) -> None:
        if event.act != "build" or event.made is None or not self.loads:
            return
        if isinstance(self.words, DropInSpelling):
            loading = Event("load", event.made, {"params": event.given["params"]})
            self.body.append(self.words.call(loading, self._spell))

    def _first(self, event: Event) -> None:
        call = self.words.call(event, self._spell)
        self.body.append(f"first = {call}")

    # --- what is judged

    def _exit(self, text: str) -> str:
        return f'sys.exit({"f" if "{" in text else ""}"{self.id}: {text}")'

    def _verdict(self, event: Event) -> None:
        judge = getattr(self, f"_{self.finding.kind.replace('-', '_')}")
        call = self.words.call(event, self._spell)
        judge(event, call)

    def _result(self, event: Event, call: str) -> str:
        """Make the call; the name of its result."""
        name = self.finding.name
        if event.act == "parameters":
            self.body.append(f'y = {call}["{name}"]')
        elif name in ("out", "lse"):
            self.body.append(f"out, lse = {call}")
            return name
        else:
            self.body.append(f"y = {call}")
        return "y"

    def _value(self, event: Event, call: str) -> None:
        name, finding = self._result(event, call), self.finding
        at = f"{name}[{', '.join(map(str, finding.index))}]"
        what = f"parameter {finding.name}{at.removeprefix('y')}" if event.act == "parameters" else at
        self.body.append(f"got = float({at})")
        if not np.isfinite(finding.expected):
            expected = number_text(finding.expected, 0)
            self.body.append(f'if got != float("{expected}"):')
            self.body.append("    " + self._exit(f"{what} is {{got:.9g}}; expected {expected}"))
            return
        expected = number_text(finding.expected, finding.limit)
        if not finding.limit:
            self.body.append(f"if got != {expected}:")
            self.body.append("    " + self._exit(f"{what} is {{got!r}}; expected {expected}"))
            return
        limit = f"{finding.limit * 1.005:.3g}"
        difference = f"got + {expected[1:]}" if expected.startswith("-") else f"got - {expected}"
        difference = "got" if expected == "0" else difference
        self.body.append(f"if not abs({difference}) <= {limit}:")
        self.body.append("    " + self._exit(f"{what} is {{got:.9g}}; expected {expected}, bound {limit}"))

    def _nan(self, event: Event, call: str) -> None:
        name = self._result(event, call)
        at = f"{name}[{', '.join(map(str, self.finding.index))}]"
        self.body.append(f"if not np.isnan(float({at})):")
        self.body.append("    " + self._exit(f"NaN is hidden: {at} is {{float({at}):.9g}}"))

    def _raised(self, event: Event, call: str) -> None:
        lines = self.words.lines(event, self._spell)
        self.body += ["try:", *indented(lines), f"except {_kind(event)} as error:"]
        self.body.append("    " + self._exit("{error!r}"))

    def _accepted(self, event: Event, call: str) -> None:
        kind = self.finding.name
        self.body += ["try:", f"    {call}", f"except {kind}:", "    sys.exit(0)"]
        what = "the sizes were" if event.act == "build" else "the call was"
        wanted = "an exception" if kind == "Exception" else kind
        self.body.append(self._exit(f"{what} accepted; expected {wanted}"))

    def _wrong_exception(self, event: Event, call: str) -> None:
        self.body += [
            "try:",
            f"    {call}",
            "except ValueError:",
            "    pass",
            f"except {_kind(event)} as error:",
        ]
        self.body.append("    " + self._exit("{error!r}; expected ValueError"))

    def _message(self, event: Event, call: str) -> None:
        fault = FAULTS.get(getattr(self.about.case, "fault", ""))
        names = self.about.subject.convention.names
        blamed = [names.get(name, name) for name in (fault.blamed if fault else ())]
        said = str(event.outcome.error)
        text = "str(error)"
        if any(re.search(rf"\b{name}\b", said) for name in blamed):
            arrays = ", ".join(self._array(event.given[n]) for n in blamed if n in event.given)
            shapes = f"set(map(str, a.shape)) <= numbers for a in ({arrays},)"
            condition, missing = f"any({shapes})", "the message lacks the shape"
        else:
            either = blamed[0] if len(blamed) == 1 else f"({'|'.join(blamed)})"
            condition = f're.search(r"\\b{either}\\b", {text})'
            missing = f"the message does not name {' or '.join(blamed)}"
        self.body += ["try:", f"    {call}", "except Exception as error:"]
        if "numbers" in condition:
            self.body.append(f'    numbers = set(re.findall(r"\\d+", {text}))')
        self.body.append(f"    if not {condition}:")
        self.body.append("        " + self._exit(f"{missing}: {{error}}"))

    def _odd(self, event: Event, call: str) -> None:
        self.body += [f"y = {call}", 'if not hasattr(y, "shape"):']
        self.body.append("    " + self._exit("a {type(y).__name__} came back in place of an array"))

    def _shape(self, event: Event, call: str) -> None:
        name = self._result(event, call)
        self.body.append(f"if tuple({name}.shape) != {self.finding.expected}:")
        self.body.append(
            "    " + self._exit(f"the shape is {{tuple({name}.shape)}}; expected {self.finding.expected}")
        )

    def _dtype(self, event: Event, call: str) -> None:
        name, expected = self._result(event, call), self.finding.expected
        self.body.append(f'if str({name}.dtype).split(".")[-1] != "{expected}":')
        self.body.append("    " + self._exit(f"the dtype is {{{name}.dtype}}; expected {expected}"))

    def _changed(self, event: Event, call: str) -> None:
        name = self._array(self.finding.expected)
        self.body.append(f"before = {name}.tobytes()")
        self.body += self._whatever_it_raises(event, [call])
        self.body.append(f"if {name}.tobytes() != before:")
        self.body.append("    " + self._exit(f"{name} was changed in place"))

    def _cache(self, event: Event, call: str) -> None:
        assert isinstance(self.words, (DropInSpelling, AdapterSpelling))
        held = self.words.held(event)
        self.body.append(f"before = {held}")
        self.body += ["with suppress(Exception):", f"    {call}"]
        self.body.append(f"if {held} != before:")
        self.body.append("    " + self._exit("the rejected call changed the cache"))

    def _random(self, event: Event, call: str) -> None:
        name = self.finding.name
        self._looked_at(event, call, GENERATORS[name], f"the call drew from the global generator of {name}")

    def _setting(self, event: Event, call: str) -> None:
        name = self.finding.name
        what = "building it" if event.act == "build" else "the call"
        said = f"{what} changed {name} from {{before}} to {{after}}"
        self._looked_at(event, call, SETTINGS[name], said)

    def _looked_at(self, event: Event, call: str, state: tuple[list[str], str], said: str) -> None:
        """Make the call between two looks at a state."""
        first, look = state
        self.body += [*first, f"before = {look}"]
        self.body += self._whatever_it_raises(event, [call])
        self.body += [f"after = {look}", "if after != before:", "    " + self._exit(said)]

    def _attribute(self, event: Event, call: str) -> None:
        self.body.append(f"module = {call}")
        self.body.append(f"lacking = [name for name in {NAMES} if not hasattr(module, name)]")
        self.body.append("if lacking:")
        self.body.append("    " + self._exit("a module has no attribute {', '.join(lacking)}"))

    def _length(self, event: Event, call: str) -> None:
        self.body += [f"length = {call}", f"if length != {self.finding.expected}:"]
        self.body.append(
            "    " + self._exit(f"the cache has length {{length}}; expected {self.finding.expected}")
        )

    def _repeat(self, event: Event, call: str) -> None:
        limit = f"{self.finding.limit * 1.005:.3g}"
        part = {"out": "[0]", "lse": "[1]"}.get(self.finding.name, "")
        self.body.append(f"second = {call}")
        self.body.append(f"difference = float(abs(second{part} - first{part}).max())")
        self.body.append(f"if not difference <= {limit}:")
        self.body.append("    " + self._exit(f"two equal calls differ by {{difference:.3g}}; bound {limit}"))

    def _whatever_it_raises(self, event: Event, lines: list[str]) -> list[str]:
        return ["with suppress(Exception):", *indented(lines)] if event.outcome.error else lines


def _kind(event: Event) -> str:
    """The name of the exception that an event raised; a script has only built-in ones at hand."""
    kind = type(event.outcome.error)
    return kind.__name__ if kind.__module__ == "builtins" else "Exception"


def number_text(value: float, limit: float) -> str:
    """A number in as few digits as leave it where it is, measured by the limit."""
    if not np.isfinite(value):
        return str(value)
    near = (f"{value:.{digits}g}" for digits in range(1, 18))
    text = next(text for text in near if abs(float(text) - value) <= limit * 1e-3)
    return str(int(float(text))) if float(text) == int(float(text)) and abs(float(text)) < 1e6 else text


def indented(lines: Sequence[str]) -> list[str]:
    """Lines within a block."""
    return [f"    {line}" if line else "" for line in lines]


def _versions(*packages: str) -> Iterable[str]:
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield package
