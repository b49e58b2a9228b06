"""Spelling: how a script gets at the target or the reference, and how events are written as calls of either."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from attn_conformance.drop_in import DropIn
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.reproducer.imports import importing
from attn_conformance.reproducer.recording import Event, Log
from attn_conformance.subject import Subject

Spell = Callable[[Any], str]
"""From a value that was handed over to the expression for it."""


class Spelling(ABC):
    """The words for one kind of subject.

    events: those that the script has. loads: whether nothing random is left in it, since parameters are loaded.
    """

    def __init__(self, subject: Subject, log: Log, events: Sequence[Event], loads: bool) -> None:
        self.loads = loads
        self.subject = subject
        self.log = log
        self.events = events

    @abstractmethod
    def reference(self) -> list[str]:
        """The branch in which the reference takes the target's place."""

    @abstractmethod
    def target(self) -> list[str]:
        """The branch that imports the target."""

    @abstractmethod
    def call(self, event: Event, spell: Spell) -> str:
        """The expression that does what an event did."""

    def lines(self, event: Event, spell: Spell) -> list[str]:
        """The statements that do what an event did, and name what came of it."""
        return [self.call(event, spell)]

    @property
    def native(self) -> bool:
        """Whether arrays have to be made into the framework's own."""
        return self.subject.border.name != "numpy"

    def imported(self, alias: str, made_by: type | None = None) -> list[str]:
        """Lines that import the framework and, as `alias`, the target, and that set the framework up."""
        lines = importing(self.subject.target, alias, made_by=made_by)
        name = self.subject.border.name
        if name == "numpy":
            return lines
        first = [line for line in lines if line.startswith("sys.path")]
        setup = self.framework() if name == "torch" else ["array = jax.numpy.asarray"]
        return [*first, f"import {name}", *lines[len(first) :], "", *setup]

    def framework(self) -> list[str]:
        """How arrays become PyTorch's, and under which mode it runs."""
        device = self.subject.device
        modes = {event.mode for event in self.events} - {"off"}
        mode = modes.pop() if modes else "off"
        grads = {
            "off": ["torch.set_grad_enabled(False)"],
            "inference": ["mode = torch.inference_mode()", "mode.__enter__()"],
        }
        half = any(held.first.dtype.name == "bfloat16" for held in self.log.arrays)
        seed = [] if self.loads else ["torch.manual_seed(1)"]
        settings = [*seed, *grads.get(mode, [])]
        if not half and mode != "on" and device == "cpu":
            return ["array = torch.from_numpy", *settings]
        lines = [*settings, *([""] if settings else []), "def array(values):"]
        if half:
            lines += [
                '    if values.dtype == "bfloat16":',
                "        made = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)",
                "    else:",
                "        made = torch.from_numpy(values)",
            ]
        else:
            lines += ["    made = torch.from_numpy(values)"]
        if device != "cpu":
            lines += [f'    made = made.to("{device}")']
        last = "made.requires_grad_(made.is_floating_point())" if mode == "on" else "made"
        return [*lines, f"    return {last}"]


def given(event: Event, spell: Spell, *positional: str) -> str:
    """The arguments of a call: those named first by position, the others by name."""
    first = [spell(event.given[name]) for name in positional]
    named = [f"{name}={spell(value)}" for name, value in event.given.items() if name not in positional]
    return ", ".join([*first, *named])


def _in_order(event: Event, spell: Spell) -> str:
    """x, xa and mask by position, as the protocol has them."""
    last = max(n for n, name in enumerate(("x", "xa", "mask")) if name in event.given)
    return ", ".join(spell(event.given.get(name)) for name in ("x", "xa", "mask")[: last + 1])


def spelling(subject: Subject, log: Log, events: Sequence[Event], *, loads: bool) -> Spelling:
    """That of a subject's kind."""
    if isinstance(subject, KernelSubject):
        return KernelSpelling(subject, log, events, loads)
    assert isinstance(subject, ModuleSubject)
    drop_in = type(subject.implementation) is DropIn  # an adapter may be one with sessions of its own
    return (DropInSpelling if drop_in else AdapterSpelling)(subject, log, events, loads)


class KernelSpelling(Spelling):
    """A function, called `attention`."""

    subject: KernelSubject

    def reference(self) -> list[str]:
        """The reference's function, behind the parameters of the target's convention where these differ."""
        convention = self.subject.convention
        used = {name for event in self.events for name in event.given} - {"q", "k", "v"}
        roles = {name: role for role, name in convention.names.items()}
        lse = "lse" in self.subject.claims.features
        corner = convention.alignment == "top-left" and convention.names["is_causal"] in used
        plain = all(roles[name] == name for name in used)
        if plain and not lse and not corner and convention.axes == "BHTD":
            return ["from attn_reference import attention"]
        defaults = {"is_causal": "False"}
        parameters = [f"{name}={defaults.get(roles[name], 'None')}" for name in sorted(used)]
        by_role = {roles[name]: name for name in used}
        mask = "bias" if "bias" in by_role and "mask" not in by_role else "mask"
        order = {
            "mask": by_role.get(mask),
            "is_causal": by_role.get("is_causal"),
            "scale": by_role.get("scale"),
        }
        handed = ", ".join(["q", "k", "v", *(f"{role}={name}" for role, name in order.items() if name)])
        lines = [f"def attention({', '.join(['q', 'k', 'v', *parameters])}):"]
        if corner:
            flag = convention.names["is_causal"]
            triangle = "np.tri(q.shape[-2], k.shape[-2], dtype=bool)"
            if convention.axes == "BTHD":
                triangle = triangle.replace("-2", "-3")
            handed = f"q, k, v, {triangle} if {flag} else {by_role.get('mask')}"
        if convention.axes == "BTHD":
            lines.append("    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))")
        back = ".swapaxes(1, 2)" if convention.axes == "BTHD" else ""
        if lse:
            lines.append(f"    return reference({handed}){back}, solve(lower({handed})).lse")
        else:
            lines.append(f"    return reference({handed}){back}")
        names = "attention as reference, lower, solve" if lse else "attention as reference"
        return [f"from attn_reference import {names}", "", *lines]

    def target(self) -> list[str]:
        """The function itself."""
        return self.imported("attention")

    def call(self, event: Event, spell: Spell) -> str:
        """A call of the function."""
        return f"attention({given(event, spell, 'q', 'k', 'v')})"


class ModuleSpelling(Spelling):
    """A module: handles are called `module`, results of `load` and edits have no names."""

    subject: ModuleSubject

    def module(self, number: int) -> str:
        """What a handle is called."""
        return "module" if number == 0 else f"module{number + 1}"

    def weights(self, event: Event, spell: Spell) -> str:
        """The parameters of an event, as the framework's arrays."""
        name = spell(event.given["params"])
        return f"{{name: array(w) for name, w in {name}.items()}}" if self.native else name


class DropInSpelling(ModuleSpelling):
    """A class with the interface of the seed, called as it is; the cache is a dict."""

    @property
    def hooks(self) -> bool:
        """Whether steps need hooks in place."""
        managed = getattr(self.subject.implementation, "hooks", False)
        return managed and any(event.act == "step" for event in self.events)

    def reference(self) -> list[str]:
        """The reference's class."""
        return ["from attn_reference import MultiHeadAttention"]

    def target(self) -> list[str]:
        """The class; of PyTorch in evaluation mode and in the dtype at hand, under hooks where these are needed."""
        if self.subject.border.name != "torch":
            return self.imported("MultiHeadAttention")
        kinds = {
            self.log.arrays[ref.number].first.dtype.name
            for event in self.events
            for ref in event.given.get("params", {}).values()
        }
        cast = f".to(torch.{kinds.pop()})" if len(kinds) == 1 and kinds != {"float32"} else ""
        device = "" if self.subject.device == "cpu" else f'.to("{self.subject.device}")'
        made = [
            "",
            "def MultiHeadAttention(*args, **options):",
            f"    return Module(*args, **options){cast}{device}.eval()",
        ]
        if not self.hooks:
            return [*self.imported("Module"), *made]
        if not cast and not device:
            return [
                *self.imported("Module"),
                *(line.replace("Hooked", "MultiHeadAttention") for line in HOOKS),
            ]
        return [*self.imported("Module"), *HOOKS, *(line.replace("Module", "Hooked") for line in made)]

    def call(self, event: Event, spell: Spell) -> str:
        """A call of the class, of a module, or of one of its methods."""
        module = self.module(event.of)
        if event.act == "build":
            causal = ", causal=True" if event.given["causal"] else ""
            return f"MultiHeadAttention({event.given['n_state']}, {event.given['n_head']}{causal})"
        if event.act == "forward":
            return f"{module}({given(event, spell, 'x')})"
        if event.act == "attention":
            return f"{module}.qkv_attention({given(event, spell, *event.given)})"
        if event.act == "load":
            known = self.log.handles[event.of].state_dict()
            more = self.subject.key_bias or any(name not in event.given["params"] for name in known)
            weights = self.weights(event, spell)
            return f"{module}.load_state_dict({f'{module}.state_dict() | ' if more else ''}{weights})"
        if event.act == "parameters":
            return f"{module}.state_dict()"
        module, cache = self.module(self._opener(event.of)), self.cache(event.of)
        if event.act == "step":
            return f"{module}({given(event, spell, 'x')}, kv_cache={cache})"
        assert event.act == "length"
        return f"{cache}[{module}.key].shape[1]"

    def lines(self, event: Event, spell: Spell) -> list[str]:
        """As `Spelling.lines`; what a caller does to a cache is done to the dict."""
        if event.act == "build" and event.made is not None:
            return [f"{self.module(event.made)} = {self.call(event, spell)}"]
        if event.act == "copy" and event.made is not None:
            return [f"{self.module(event.made)} = copy.deepcopy({self.module(event.of)})"]
        if event.act == "open" and event.made is not None:
            if event.given.get("cache") is not None:
                return []
            plain = type(self.log.sessions[event.made].cache) is dict
            made = "{}" if plain else f'getattr({self.module(event.of)}, "new_cache", dict)()'
            return [f"{self.cache(event.made)} = {made}"]
        if event.act == "fork" and event.made is not None:
            return [f"{self.cache(event.made)} = copy.copy({self.cache(event.of)})"]
        if event.act in ("reorder", "truncate"):
            module, cache = self.module(self._opener(event.of)), self.cache(event.of)
            by = event.given["by"]
            kept = list(by) if event.act == "reorder" else f":, :{by}"
            return [
                f"for part in ({module}.key, {module}.value):",
                f"    {cache}[part] = {cache}[part][{kept}]",
            ]
        return super().lines(event, spell)

    def held(self, event: Event) -> str:
        """What the cache at hand shows, as an expression."""
        return f"[entry.tolist() for entry in {self.cache(event.of)}.values()]"

    def cache(self, session: int) -> str:
        """What the dict of a session is called: sessions that share it share the name."""
        for event in self.log.events:
            if event.act == "open" and event.made == session and event.given.get("cache") is not None:
                return self.cache(event.given["cache"])
        return "cache" if session == 0 else f"cache{session + 1}"

    def _opener(self, session: int) -> int:
        """The handle of a session."""
        for event in self.log.events:
            if event.act == "open" and event.made == session:
                return event.of
            if event.act == "fork" and event.made == session:
                return self._opener(event.of)
        raise KeyError(session)


HOOKS = [
    "",
    "class Hooked(Module):",
    "    def __call__(self, *args, kv_cache, **options):",
    "        def append(part, _, output):",
    "            kv_cache[part] = torch.cat([kv_cache.get(part, output[:, :0]), output], 1)",
    "            return kv_cache[part]",
    "        with self.key.register_forward_hook(append), self.value.register_forward_hook(append):",
    "            return super().__call__(*args, kv_cache=kv_cache, **options)",
]
"""Calls under hooks that keep the cache, as in `sessions.HookSession`."""

UNCACHED = {
    HOOKS[2]: "    def __call__(self, *args, kv_cache=None, **options):",
    HOOKS[3]: "        kv_cache = {} if kv_cache is None else kv_cache\n        def append(part, _, output):",
}
"""Lines of it that read otherwise where calls without a cache come too."""


class AdapterSpelling(ModuleSpelling):
    """An object with build, forward and open, called `target`."""

    def reference(self) -> list[str]:
        """The reference's class as such an object."""
        return [
            "from attn_conformance.borders import NumpyBorder",
            "from attn_conformance.drop_in import DropIn",
            "from attn_reference import MultiHeadAttention",
            "",
            "target = DropIn(MultiHeadAttention, NumpyBorder(), MultiHeadAttention.claims)",
        ]

    def target(self) -> list[str]:
        """The object."""
        return self.imported("target", made_by=type(self.subject.implementation))

    def call(self, event: Event, spell: Spell) -> str:
        """A call of the object, or of one of its sessions."""
        module, session = self.module(event.of), self._session(event.of)
        if event.act == "build":
            sizes = ", ".join(str(event.given[name]) for name in ("n_state", "n_head", "causal"))
            return f"target.build({sizes}, {self.weights(event, spell)})"
        if event.act == "open":
            shared = event.given.get("cache")
            return f"target.open({module}{'' if shared is None else f', {self._session(shared)}.cache'})"
        if event.act == "load":
            return f"target.load({module}, {self.weights(event, spell)})"
        if event.act == "parameters":
            return f"target.parameters({module})"
        if event.act == "forward":
            return f"target.forward({module}, {_in_order(event, spell)})"
        if event.act == "attention":
            return f"target.attention({module}, {given(event, spell, *event.given)})"
        if event.act == "step":
            return f"{session}.step({_in_order(event, spell)})"
        if event.act == "length":
            return f"{session}.length"
        by = event.given.get("by")
        return f"{session}.{event.act}({'' if by is None else list(by) if event.act == 'reorder' else by})"

    def lines(self, event: Event, spell: Spell) -> list[str]:
        """As `Spelling.lines`."""
        if event.act == "copy" and event.made is not None:
            return [f"{self.module(event.made)} = copy.deepcopy({self.module(event.of)})"]
        made = ""
        if event.made is not None:
            made = self.module(event.made) if event.act == "build" else self._session(event.made)
        return [f"{made} = {self.call(event, spell)}" if made else self.call(event, spell)]

    def held(self, event: Event) -> str:
        """What the cache at hand shows, as an expression."""
        cache = f"{self._session(event.of)}.cache"
        kind = self.log.sessions[event.of].cache
        values = (
            f"{cache}.values()"
            if hasattr(kind, "values")
            else f"getattr({cache}, 'values', lambda: {cache})()"
        )
        return f"[entry.tolist() for entry in {values}]"

    def _session(self, number: int) -> str:
        return "session" if number == 0 else f"session{number + 1}"
