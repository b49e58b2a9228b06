"""Targets: from a loaded object and what the user says of it to a subject, by a smallest call in each dtype."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, get_args

from attn_conformance import contract
from attn_conformance.assumed import assumed
from attn_conformance.audit import foreign
from attn_conformance.borders import BORDERS, Border, candidates
from attn_conformance.cases import ForwardCase, KernelCase, build, build_forward
from attn_conformance.conventions import (
    ADAPTER,
    CONVENTIONS,
    SEED,
    WHISPER_HOOKS,
    expressible,
    recognise,
)
from attn_conformance.drop_in import DropIn, LacksParameters, looks_like_one, of_torch, stated_or_plain
from attn_conformance.endings import by_user, described
from attn_conformance.implementation import Implementation
from attn_conformance.judge import Failed
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.loading import Claiming, TargetError, load, objects
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.names import suggestion
from attn_conformance.sessions import DictSession
from attn_conformance.subject import Raised, Subject
from attn_reference.claims import DTYPES, FEATURES, Arithmetic, Claims

ARITHMETICS = get_args(Arithmetic)

GUIDE = "docs/guides/writing-an-implementation.md and the module attn_conformance.implementation say how"
"""Where those are sent whose target takes an adapter."""

OF_CLASSES = (SEED.name, WHISPER_HOOKS.name)
"""The conventions of classes; the others are those of functions."""

Tell = Callable[[str], None]
"""Called with what is about to be done with a target."""


def silent(doing: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Narrowing:
    """What the user says of a target beside its name: the options that change its convention or claims."""

    convention: str | None = None
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    head_sizes: tuple[int, ...] = ()
    device: str = "cpu"

    @property
    def options(self) -> str:
        """As options of the command line, "" if it says nothing."""
        given = {
            "--convention": self.convention or "",
            "--with": ",".join(self.add),
            "--without": ",".join(self.drop),
            "--dtype": ",".join(self.dtypes),
            "--head-dims": ",".join(map(str, self.head_sizes)),
            "--device": "" if self.device == "cpu" else self.device,
        }
        return " ".join(f"{name} {shlex.quote(value)}" for name, value in given.items() if value)


def subject(
    target: str, narrowing: Narrowing = Narrowing(), tell: Tell = silent
) -> tuple[Subject, dict[str, str]]:
    """The subject of a target, and the claimed dtypes that it refuses, with what it said.

    A smallest call in each claimed dtype comes first: it decides which framework's arrays the target takes.
    A module that answers it with something of another type or shape is not judged further: that is said under
    "OUT-1" in the dtypes' place. tell: of each call before it is made. TargetError if no dtype works with any
    framework, or if it cannot even be looked at.
    """
    try:
        return _subject(target, narrowing, tell)
    except (TargetError, ValueError):
        raise
    except BaseException as error:  # attributes, signatures and metaclasses are the target's code, too
        if by_user(error):
            raise
        raise TargetError(f"{target}: looking at it raised {described(error)}") from error


def _subject(target: str, narrowing: Narrowing, tell: Tell) -> tuple[Subject, dict[str, str]]:
    if narrowing.convention is not None and narrowing.convention not in CONVENTIONS:
        raise TargetError(
            f"{target}: unknown convention {narrowing.convention!r}; known are {', '.join(CONVENTIONS)}"
        )
    loaded = load(target)
    inner = loaded.function if isinstance(loaded, Claiming) else loaded
    trials = _trials(target, inner, loaded, narrowing)
    stated = any(isinstance(getattr(found, "claims", None), Claims) for found in (loaded, inner))
    refusals: dict[str, str] = {}
    misshapen: tuple[ModuleSubject, str] | None = None
    for trial in trials:
        tell(f"the smallest call, with {trial.border.name} arrays,")
        said = {dtype: _refusal(trial, dtype) for dtype in trial.claims.dtypes}
        refused = {dtype: text for dtype, text in said.items() if text is not None}
        if len(refused) < len(said):
            kept = tuple(dtype for dtype in trial.claims.dtypes if dtype not in refused)
            claims = replace(trial.claims, dtypes=kept)
            if not differentiates(trial):
                claims = replace(claims, features=claims.features - {"gradients"})
            given = {*narrowing.add, *narrowing.dtypes}
            named = frozenset() if stated else assumed(trial.claims) - given
            found = replace(trial, claims=claims, foreign=foreign(inner), assumed=named)
            return _settled(found), refused
        first = next(iter(refused.values()))
        if isinstance(trial, ModuleSubject) and first.startswith("returned"):
            misshapen = misshapen or (trial, first)
        refusals[f"{_smallest(trial)}, with {trial.border.name} arrays"] = first
    if misshapen is not None:
        return misshapen[0], {"OUT-1": misshapen[1]}
    tried = "; ".join(f"{call}: it {text}" for call, text in refusals.items())
    adapter = (
        f". What is built or called otherwise takes an adapter: {GUIDE}" if isinstance(inner, type) else ""
    )
    raise TargetError(f"{target}: the smallest call got no answer: {tried}{adapter}")


def _trials(
    target: str, inner: Any, loaded: Any, narrowing: Narrowing
) -> Iterator[KernelSubject | ModuleSubject]:
    """What an object may be judged as, the likeliest first; TargetError for what is no target."""
    if isinstance(inner, Implementation) and not contract.lacking(inner):
        return _adapted(target, inner() if isinstance(inner, type) else inner, narrowing)
    if isinstance(inner, type):
        return _drop_ins(target, inner, loaded, narrowing)
    if of_torch(type(inner)):
        raise TargetError(
            f"{target}: is an instance of nn.Module; give its class, {type(inner).__name__}, or an adapter: {GUIDE}"
        )
    if contract.is_adapter(inner):
        raise TargetError(f"{target}: {contract.lacking(inner)} ({GUIDE})")
    if isinstance(inner, ModuleType):
        raise TargetError(f"{target}: is a module; name the object in it: {objects(inner.__name__)}")
    if callable(inner):
        return _kernels(target, inner, loaded, narrowing)
    raise TargetError(
        f"{target}: is of type {type(inner).__name__}; a target is a function on split heads, a class with the "
        "interface MultiHeadAttention(n_state, n_head, causal), or an adapter, an object with claims, border, build "
        f"and forward: {GUIDE}"
    )


def differentiates(subject: Subject) -> bool:
    """Whether there is a way to gradients: that of its framework, or one of its own."""
    own = getattr(getattr(subject, "implementation", None), "gradients", None)
    return subject.border.differentiates or callable(own)


def _kernels(
    target: str, function: Callable[..., Any], loaded: Any, narrowing: Narrowing
) -> Iterator[KernelSubject]:
    if narrowing.convention in OF_CLASSES:
        raise TargetError(
            f"{target}: {narrowing.convention} is a convention of classes, and this is a function"
        )
    try:
        convention = CONVENTIONS[narrowing.convention] if narrowing.convention else recognise(function)
    except ValueError as error:
        raise TargetError(f"{target}: {error}") from error
    stated = getattr(loaded, "claims", None)
    if not isinstance(stated, Claims):
        features = expressible(convention, function)
        stated = Claims(dtypes=convention.dtypes, devices=("cpu", "cuda"), features=features)
    claims = _claims(target, stated, narrowing)
    for name in candidates(function):
        yield KernelSubject(target, function, convention, BORDERS[name](), claims, narrowing.device)


def _drop_ins(target: str, cls: type, loaded: Any, narrowing: Narrowing) -> Iterator[ModuleSubject]:
    if contract.is_adapter(cls) and not looks_like_one(cls):
        raise TargetError(
            f"{target}: is a class with build and forward; an adapter is an instance of it, such as "
            f"adapter = {cls.__name__}(...): give {target.rpartition(':')[0]}:adapter"
        )
    if narrowing.convention not in (None, *OF_CLASSES):
        raise TargetError(
            f"{target}: {narrowing.convention} is a convention of functions, and this is a class; those of classes are "
            f"{' and '.join(OF_CLASSES)}"
        )
    if not looks_like_one(cls):
        raise TargetError(
            f"{target}: its constructor is {_signature(cls)}; a class needs no adapter if it is "
            f"{cls.__name__}(n_state, n_head, causal=False), by these names and with the sizes in this order. Others "
            f"take an adapter: {GUIDE}"
        )
    hooks = narrowing.convention == WHISPER_HOOKS.name
    stated = loaded.claims if isinstance(loaded, Claiming) else stated_or_plain(cls)
    claims = _claims(target, stated, narrowing)
    for name in ["torch"] if of_torch(cls) else candidates(cls):
        border = BORDERS[name]()
        implementation = DropIn(cls, border, claims, hooks)
        convention = WHISPER_HOOKS if hooks else SEED
        yield ModuleSubject(target, implementation, convention, border, claims, narrowing.device)


def _adapted(target: str, implementation: Implementation, narrowing: Narrowing) -> Iterator[ModuleSubject]:
    if narrowing.convention is not None:
        raise TargetError(
            f"{target}: an adapter spells its calls itself; --convention {narrowing.convention} is for others"
        )
    named = implementation.border
    border: Border = BORDERS[named]() if isinstance(named, str) else named
    differences = tuple(getattr(implementation, "differences", ()))
    convention = replace(ADAPTER, differences=differences)
    claims = _claims(target, implementation.claims, narrowing)
    if missing := contract.unfulfilled(implementation, claims):
        raise TargetError(f"{target}: {missing} ({GUIDE})")
    yield ModuleSubject(target, implementation, convention, border, claims, narrowing.device)


def _settled(found: KernelSubject | ModuleSubject) -> Subject:
    """A subject that answers, with what one more look at a module tells: how it caches, and whether key has a bias."""
    if not isinstance(found, ModuleSubject):
        return found
    call = build_forward(_smallest_forward(found.claims, found.claims.dtypes[0]))
    handle = found.build(call.params, call.n_head, call.is_causal)
    parameters: Any = getattr(found.implementation, "parameters", None)
    if parameters is not None and "key.bias" in parameters(handle):
        found = replace(found, key_bias=True)
    implementation = found.implementation
    if found.convention.name == ADAPTER.name and found.claims.features >= {"cache", "cache-edits"}:
        with suppress(Failed):  # what opening a session raises, a requirement will tell
            if missing := contract.without_edits(found.session(handle)):
                raise TargetError(f"{found.target}: {missing} ({GUIDE})")
    if not isinstance(implementation, DropIn) or found.convention is not SEED:
        return found
    if found.border.name != "torch" or not found.scope.has("cache"):
        return found
    # Nothing in the mapping after a step of self-attention: the class leaves its cache to hooks.
    session = DictSession(handle)
    x = found.border.asarray(call.x, found.device)
    try:
        with found.border.grad_mode("off"):
            session.step(x)
    except Exception:
        return found  # what it says will be said again, to a requirement
    if session.cache:
        return found
    return replace(found, implementation=replace(implementation, hooks=True), convention=WHISPER_HOOKS)


def _signature(cls: type) -> str:
    """How a class is built, as it would be called."""
    try:
        return f"{cls.__name__}{inspect.signature(cls)}"
    except (TypeError, ValueError):
        return f"{cls.__name__}(...)"


def _claims(target: str, stated: Claims, narrowing: Narrowing) -> Claims:
    add = {name for name in narrowing.add if name not in ARITHMETICS}
    for name in (*add, *narrowing.drop):
        if name not in FEATURES:
            known = (*FEATURES, *ARITHMETICS)
            raise TargetError(
                f"{target}: unknown claim {name!r}{suggestion(name, known)}; known are {', '.join(known)}"
            )
    arithmetic = [name for name in narrowing.add if name in ARITHMETICS]
    unknown = [name for name in narrowing.dtypes if name not in DTYPES]
    if unknown:
        raise TargetError(f"{target}: unknown dtype {unknown[0]!r}; known are {', '.join(DTYPES)}")
    claims = replace(
        stated,
        features=(stated.features | add) - set(narrowing.drop),
        dtypes=narrowing.dtypes or stated.dtypes,
        head_sizes=narrowing.head_sizes or stated.head_sizes,
    )
    if narrowing.device not in claims.devices:
        raise TargetError(
            f"{target}: {narrowing.device} is not among the claimed devices {', '.join(claims.devices)}"
        )
    return replace(claims, arithmetic=arithmetic[-1]) if arithmetic else claims  # type: ignore[arg-type]


def _smallest(trial: Subject) -> str:
    dtype = trial.claims.dtypes[0]
    if trial.kind == "module":
        return _smallest_forward(trial.claims, dtype).describe()
    return _smallest_kernel(trial.claims, dtype).describe()


def _smallest_kernel(claims: Claims, dtype: str) -> KernelCase:
    size = claims.head_sizes[0] if claims.head_sizes else 8
    return KernelCase(2, 2, 2, 3, 3, size, size, dtype=dtype)


def _smallest_forward(claims: Claims, dtype: str) -> ForwardCase:
    return ForwardCase(2, 2, claims.head_sizes[0] if claims.head_sizes else 8, 3, None, dtype)


def _refusal(trial: Subject, dtype: str) -> str | None:
    """What the subject says to the smallest call in a dtype, or None if it gives an array."""
    if trial.device == "cuda":
        if trial.border.name == "numpy":
            return "could not be called: NumPy has no arrays on cuda"
        if not _has_cuda(trial.border):
            raise TargetError(f"{trial.target}: there is no CUDA device here (--device cuda)")
    try:
        if isinstance(trial, ModuleSubject):
            trial.forward(build_forward(_smallest_forward(trial.claims, dtype)))
        else:
            trial.run(build(_smallest_kernel(trial.claims, dtype)))
    except Failed as failed:
        if isinstance(failed, Raised) and isinstance(failed.error, LacksParameters):
            raise TargetError(
                f"{trial.target}: has the constructor of the interface, but {failed.error}. Weights go in by these "
                f"names; a class that names them otherwise takes an adapter: {GUIDE}"
            ) from failed
        return failed.message
    except TypeError as error:  # the border has no such array
        return f"could not be called: {error}"
    return None


def _has_cuda(border: Border) -> bool:
    """Whether PyTorch has a CUDA device; of other frameworks the first array tells."""
    torch: Any = getattr(border, "torch", None)
    return torch is None or bool(torch.cuda.is_available())
