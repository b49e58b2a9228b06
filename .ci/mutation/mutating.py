"""Mutants: what operators make of a file, without those that mean the same, and why some may live."""

import ast
import hashlib
import pickle
import random
import tomllib
from collections import Counter
from functools import cache

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from operators import operators
from settings import EXPLAINED, ROOT, SUBJECTS


@cache
def parsed(file):
    """The source of a file, and its tree, pickled: that is ten times faster to copy than to parse again."""
    source = (ROOT / file).read_text(encoding="utf-8")
    return source, pickle.dumps(get_ast(source))


def places(file):
    """Where the operators apply in a file: (file, operator, number of the place)."""
    source, tree = parsed(file)
    unused = _lines(source, SUBJECTS[file][1] if file in SUBJECTS else ())
    nodes, found = list(ast_nodes(pickle.loads(tree))), []
    for name, operator in operators().items():
        lines = [at[0][0] for node in nodes for at in operator().mutation_positions(node)]
        found += [(file, name, number) for number, line in enumerate(lines) if line not in unused]
    return found


def made(place):
    """The mutant of a place: file, operator, before, after (the lines that differ), source and meaning; or None."""
    file, name, number = place
    source, tree = parsed(file)
    try:
        mutated = MutationVisitor(number, operators()[name]()).walk(pickle.loads(tree)).get_code()
    except AttributeError:
        return None  # ExceptionReplacer 8.7 stumbles over dotted names
    before, after = _changed(source, mutated)
    mutant = {"file": file, "operator": name, "before": before, "after": after, "source": mutated}
    return mutant | {"meaning": _meaning(mutated)}


def mutants(files, pool, sample, seed):
    """The mutants of these files that differ from the code and from each other, by `key`; of a sample of places."""
    every = []
    for found in pool.map(places, files):
        chosen = found if sample is None else random.Random(seed).sample(found, min(sample, len(found)))
        every += sorted(chosen)
    seen = {_meaning(parsed(file)[0]) for file in files} | {""}
    found, nth = {}, Counter()
    for mutant in pool.map(made, every, chunksize=20):
        if mutant is not None and mutant["meaning"] not in seen:
            seen.add(mutant["meaning"])
            nth.update([key(mutant)])
            mutant["nth"] = nth[key(mutant)]
            found[key(mutant)] = mutant
    return found


def _meaning(source):
    """What a program does: its syntax tree without texts, types and what dataclasses forbid; "" if it is none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            node.body = [one for one in node.body if not _is_text(one)]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dataclass":
            node.keywords = []
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _lines(source, names):
    """The lines of the definitions of these names."""
    found = set()
    for node in ast.parse(source).body:
        target = getattr(node, "target", node)
        if getattr(target, "name", getattr(target, "id", None)) in names:
            found.update(range(node.lineno, node.end_lineno + 1))
    return found


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changed(source, mutated):
    """The lines that differ, before and after: one place, since a mutation is one."""
    old, new = ([line.strip() for line in text.splitlines()] for text in (source, mutated))
    first = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    rest = min(len(old), len(new)) - first
    last = next((i for i in range(1, rest + 1) if old[-i] != new[-i]), rest + 1)
    return "\n".join(old[first : len(old) - last + 1]), "\n".join(new[first : len(new) - last + 1])


def key(mutant):
    """What tells mutants apart, and does not change with the lines above; nth: of equal lines."""
    return mutant["file"], mutant["operator"], mutant["before"], mutant["after"], mutant.get("nth", 0)


def explained():
    """Why mutants that live are equivalent, by file, before and after, or "any" for whatever comes after."""
    entries = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["equivalent"]
    for entry in entries:
        entry["after"] = ["any"] if entry["after"] == "any" else entry["after"]
    return {(e["file"], e["before"], after): e["reason"] for e in entries for after in e["after"]}


def is_explained(mutant, reasons):
    """Whether one of these reasons, by file, before and after, is about this mutant."""
    return any((mutant["file"], mutant["before"], after) in reasons for after in (mutant["after"], "any"))
