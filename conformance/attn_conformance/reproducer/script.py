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
from attn_conformance.reproducer.literals import expression
from attn_conformance.reproducer.recording import Event, Log, Ref
from attn_conformance.reproducer.spelling import AdapterSpelling, DropInSpelling, KernelSpelling, spelling
from attn_conformance.reproducer.views import viewed
from attn_conformance.subject import Subject
from attn_reference.requirements import Requirement

WIDTH = 110
"""Columns of a script's texts."""

MOST_LINES = 39
"""Lines of a script."""

ROLLED = r"np\.roll\((?P<eye>np\.eye\([^)]*\)), (?P<by>\d+), axis=1\)"
"""An expression of `literals` for a matrix that moves every feature by some places."""

SESSIONS = ("step", "reorder", "truncate", "fork", "length")
"""Acts of sessions."""


@dataclass(frozen=True)
class Plan:
    """Which events a script has, by number, and what of them it may leave out.

    views: whether arrays have the strides that they were handed over with. weights: whether parameters are loaded.
    """

    events: tuple[int, ...]
    views: bool
    weights: bool


def plans(log: Log, finding: Finding) -> list[Plan]:
    """Ways to show a finding, from the least that may suffice to all that came before it."""
    last = finding.event
    if finding.kind == "deadly":
        choices = [[n for n, event in enumerate(log.events) if event.act != "length"]]
    else:
        ends = [last] if finding.kind != "repeat" else [finding.other, last]
        event = log.events[last]
        before = [n for n in range(last) if log.events[n].act not in ("length", "parameters")]
        caches = _sharing(log, event.of) if event.act in SESSIONS else set()
        handle = _handle(log, event)
        on_caches = [n for n in before if log.events[n].act in SESSIONS and log.events[n].of in caches]
        on_handle = [n for n in before if handle is not None and _handle(log, log.events[n]) == handle]
        instance = _instance(log, event)
        on_instance = [n for n in before if _instance(log, log.events[n]) == instance]
        choices = [[*more, *ends] for more in ([], on_caches, on_handle, on_instance)]
    whole = []
    for chosen in choices:
        events = tuple(sorted(_with_needs(log, chosen)))
        if events not in whole:
            whole.append(events)
    strided = any(held.layout != "contiguous" for held in log.arrays)
    # Without its parameters a module shows what is not about numbers.
    numbers = finding.kind in ("value", "nan", "repeat", "deadly") or log.events[last].act == "parameters"
    loads = not numbers or log.events[last].act == "attention"
    loads = loads and any(log.events[n].act == "build" for n in whole[0])
    return [
        Plan(events, views, weights)
        for events in whole
        for views in ((False, True) if strided else (False,))
        for weights in ((False, True) if loads else (True,))
    ]


def _maker(log: Log, made: int, *acts: str) -> int:
    return next(n for n, event in enumerate(log.events) if event.act in acts and event.made == made)


def _needs(log: Log, number: int) -> Iterable[int]:
    """The events that made what an event is about."""
    event = log.events[number]
    if event.act in SESSIONS:
        yield _maker(log, event.of, "open", "fork")
    elif event.act in ("forward", "attention", "load", "parameters", "open", "copy"):
        yield _maker(log, event.of, "build", "copy")
    if event.act == "open" and event.given.get("cache") is not None:
        yield _maker(log, event.given["cache"], "open", "fork")


def _with_needs(log: Log, chosen: Sequence[int]) -> set[int]:
    found, todo = set(), list(chosen)
    while todo:
        number = todo.pop()
        if number not in found:
            found.add(number)
            todo += _needs(log, number)
    used = {ref.number for number in found for ref in _refs(log.events[number].given)}
    last = max(found)
    writes = {n for n, e in enumerate(log.events[:last]) if e.act == "write" and e.of in used}
    return found | writes


def _refs(value: Any) -> Iterable[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _refs(part)


def _handle(log: Log, event: Event) -> int | None:
    """The number of the handle that an event is about."""
    if event.act in SESSIONS:
        return _handle(log, log.events[_maker(log, event.of, "open", "fork")])
    return event.of if event.act not in ("call", "build", "write") else event.made


def _instance(log: Log, event: Event) -> int | None:
    """The number of the instance of the implementation that an event is about."""
    if event.act in ("call", "build"):
        return event.of
    if event.act == "copy":
        return _instance(log, log.events[_maker(log, event.of, "build", "copy")])
    handle = _handle(log, event)
    if handle is None or event.act == "write":
        return None
    return _instance(log, log.events[_maker(log, handle, "build", "copy")])


def _sharing(log: Log, session: int) -> set[int]:
    """The sessions on one cache, and those whose caches it was forked from or into."""
    links = [
        {event.made, event.of if event.act == "fork" else event.given.get("cache")}
        for event in log.events
        if event.act == "fork" or (event.act == "open" and event.given.get("cache") is not None)
    ]
    found: set[Any] = {session}
    for _ in links:
        for link in links:
            if link & found:
                found |= link
    return found


@dataclass(frozen=True)
class Subjects:
    """What scripts about one failure have in common."""

    requirement: Requirement
    subject: Subject
    case: Case
    log: Log
    deadly: str | None = None


def script(about: Subjects, finding: Finding, plan: Plan) -> str | None:
    """The text of a script; None where it cannot be said in fewer than 40 lines."""
    text = _Writer(about, finding, plan).text()
    return text if text.count("\n") <= MOST_LINES else None


class _Writer:
    """Writes one script."""

    def __init__(self, about: Subjects, finding: Finding, plan: Plan) -> None:
        self.about = about
        self.finding = finding
        self.plan = plan
        self.log = about.log
        self.id = about.requirement.id
        self.events = [self.log.events[n] for n in plan.events]
        self.words = spelling(about.subject, self.log, self.events)
        self.names: dict[Any, str] = {}
        self.taken: set[str] = set()
        self.body: list[str] = []
        self.loads = plan.weights or isinstance(self.words, AdapterSpelling)

    def text(self) -> str:
        """The whole script."""
        for number, event in zip(self.plan.events, self.events, strict=True):
            if number == self.finding.event and self.finding.kind != "deadly":
                self._verdict(event)
            elif number == self.finding.other and self.finding.kind == "repeat":
                self._first(event)
            else:
                self._event(event)
        reference, target = self.words.reference(), self.words.target()
        if self.words.native:
            reference = [*reference, "", "array = np.asarray"]
        branches = ['if sys.argv[1:] == ["reference"]:', *_indented(reference), "else:", *_indented(target)]
        last = branches[-1].startswith(" " * 8)
        code = [*branches, "", *([""] if last else []), *self.body]
        return "\n".join([*self._header(), *self._imports("\n".join(code)), *code, ""])

    def _header(self) -> list[str]:
        about = self.about
        sentence = f"{self.id}: {about.requirement.text}".replace("\\", "\\\\").replace('"', "'")
        head = textwrap.wrap(sentence, WIDTH - 6)
        head = [f'"""{head[0]}', *head[1:]]
        head = [*head, '"""'] if len(head) > 1 else [head[0] + '"""']
        versions = ", ".join(_versions("attn-conformance", about.subject.border.name))
        note = f"Found by {versions} in the case {about.case.describe()}"
        return [*head, "", *textwrap.wrap(note, WIDTH, initial_indent="# ", subsequent_indent="# ")]

    def _imports(self, code: str) -> list[str]:
        standard = ["base64", "copy", "faulthandler", "importlib", "pickle", "random", "re", "sys", "zlib"]
        lines = [f"import {name}" for name in standard if re.search(rf"(?<![\w.]){name}\.", code)]
        if re.search(r"\bsuppress\(", code):
            lines.append("from contextlib import suppress")
        third = [name for name in ("ml_dtypes",) if f"{name}." in code]
        third += ["numpy as np"] if re.search(r"\bnp\.", code) else []
        more = [f"import {name}" for name in third]
        return [*lines, "", *more, *([""] if more else [])]

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
        self.body += [indent + line for line in f"{name}{value}{end}".split("\n")] if end else (
            f"{name} = {value}".split("\n")
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
        rolls = [re.fullmatch(ROLLED, text) for parameter, text in texts.items() if parameter.endswith("weight")]
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
            lines = ["with suppress(Exception):", *_indented(lines)]
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
        what = f'parameter {finding.name}{at.removeprefix("y")}' if event.act == "parameters" else at
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
        self.body += ["try:", *_indented(lines), f"except {_kind(event)} as error:"]
        self.body.append("    " + self._exit("{error!r}"))

    def _accepted(self, event: Event, call: str) -> None:
        kind = self.finding.name
        self.body += ["try:", f"    {call}", f"except {kind}:", "    sys.exit(0)"]
        what = "the sizes were" if event.act == "build" else "the call was"
        wanted = "an exception" if kind == "Exception" else kind
        self.body.append(self._exit(f"{what} accepted; expected {wanted}"))

    def _wrong_exception(self, event: Event, call: str) -> None:
        self.body += ["try:", f"    {call}", "except ValueError:", "    pass", f"except {_kind(event)} as error:"]
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
            condition = f're.search(r"\\b({"|".join(blamed)})\\b", {text})'
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
        state = {
            "random": "random.getstate()",
            "numpy": "pickle.dumps(np.random.get_state())",
            "torch": 'sys.modules["torch"].get_rng_state().tolist() if "torch" in sys.modules else None',
        }[self.finding.name]
        if self.finding.name != "torch":
            seed = {"random": "random.seed(1)", "numpy": "np.random.seed(1)"}[self.finding.name]
            self.body.append(seed)
        self.body.append(f"before = {state}")
        self.body += self._whatever_it_raises(event, [call])
        self.body.append(f"after = {state}")
        self.body.append("if after != before:")
        self.body.append("    " + self._exit(f"the call drew from the global generator of {self.finding.name}"))

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
        self.body.append(f"difference = float(abs(first{part} - second{part}).max())")
        self.body.append(f"if not difference <= {limit}:")
        self.body.append("    " + self._exit("two equal calls differ by {difference:.3g}; bound " + limit))

    def _whatever_it_raises(self, event: Event, lines: list[str]) -> list[str]:
        return ["with suppress(Exception):", *_indented(lines)] if event.outcome.error else lines


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


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _versions(*packages: str) -> Iterable[str]:
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield package
