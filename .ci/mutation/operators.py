"""Operators: of Cosmic Ray a selection, and our own, which leave terms out, take one branch and change numbers."""

from cosmic_ray.ast import get_ast
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Name, Number


def _lone(node, prefix):
    """A node where another one stood."""
    node.get_first_leaf().prefix = prefix
    return node


class _Ours(Operator):
    """An operator whose mutations of a node are `changed(node)`: functions that make it."""

    def mutation_positions(self, node):
        return [(node.start_pos, node.end_pos)] * len(list(self.changed(node)))

    def mutate(self, node, index):
        return list(self.changed(node))[index]()

    @classmethod
    def examples(cls):
        return ()


class Lost(_Ours):
    """A term, factor or condition is left out: a + b is a, or b."""

    KINDS = ("arith_expr", "term", "and_test", "or_test", "expr", "and_expr")

    def changed(self, node):
        if node.type in self.KINDS:
            for i in range(0, len(node.children), 2):
                yield lambda i=i: self.without(node, i)

    def without(self, node, i):
        prefix = node.get_first_leaf().prefix
        children = node.children[2:] if i == 0 else node.children[: i - 1] + node.children[i + 1 :]
        if len(children) == 1:
            return _lone(children[0], prefix)
        node.children = children
        return _lone(node, prefix)


class Branch(_Ours):
    """One side alone of `a if c else b` and of np.where(c, a, b)."""

    def changed(self, node):
        if node.type in ("ternary", "test"):
            sides = node.children[0], node.children[4]
        elif len(sides := _arguments(node, {"where"})) == 3:
            sides = sides[1:]
        else:
            return
        for side in sides:
            yield lambda side=side: _lone(side, node.get_first_leaf().prefix)


class Bare(_Ours):
    """The argument of a function in its place: one of maximum(a, b), or x of sqrt(x)."""

    def changed(self, node):
        either = _arguments(node, {"maximum", "minimum", "max", "min", "hypot"})
        alone = _arguments(node, {"abs", "sqrt", "expm1", "log1p", "finite"})
        for side in either if len(either) == 2 else alone if len(alone) == 1 else ():
            yield lambda side=side: _in_brackets(side, node.get_first_leaf().prefix)


class Renamed(_Ours):
    """The opposite function or field."""

    PAIRS = (
        ("maximum", "minimum"),
        ("max", "min"),
        ("any", "all"),
        ("worst", "probable"),
        ("argmax", "argmin"),
    )
    OTHER = dict(PAIRS) | {b: a for a, b in PAIRS}

    def changed(self, node):
        called = isinstance(node, Name) and node.value in self.OTHER and not _bound(node)
        if called:
            yield lambda: Name(self.OTHER[node.value], node.start_pos, node.prefix)


class Tenth(_Ours):
    """A number with a point is larger by a tenth."""

    def changed(self, node):
        if isinstance(node, Number) and "." in node.value and float(node.value) != 0:
            yield lambda: Number(repr(1.1 * float(node.value)), node.start_pos, node.prefix)


class Skipped(_Ours):
    """An augmented assignment is left out."""

    def changed(self, node):
        if node.type == "expr_stmt" and node.children[1].get_first_leaf().value in ("+=", "-=", "*=", "|="):
            yield lambda: _lone(get_ast("pass").children[0], node.get_first_leaf().prefix)


def _arguments(node, names):
    """The positional arguments of a call of one of these functions, in np or by itself, with nothing behind it."""
    if node.type not in ("atom_expr", "power"):
        return []
    *path, call = node.children
    name = path[-1].children[-1] if path[-1].type == "trailer" else path[-1]
    plain = len(path) == 1 or (len(path) == 2 and path[0].get_code().strip() in ("np", "math"))
    if not plain or getattr(name, "value", None) not in names or call.type != "trailer":
        return []
    inside = call.children[1:-1]
    inside = inside[0].children if inside and inside[0].type == "arglist" else inside
    found = [one for one in inside if one.type != "operator"]
    return [] if call.children[0].value != "(" or any(one.type == "argument" for one in found) else found


def _in_brackets(node, prefix):
    code = f"({node.get_code().strip()})"
    return _lone(get_ast(code).children[0], prefix)


def _bound(name):
    """Whether a name is defined here, not used."""
    return name.is_definition() or (name.parent.type == "argument" and name.parent.children[0] is name)


REPLACED = {
    "Binary": "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul RShift_LShift LShift_RShift BitOr_BitAnd "
    "BitAnd_BitOr BitXor_BitAnd",
    "Comparison": "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE Lt_NotEq LtE_Lt LtE_Gt LtE_Eq Gt_GtE Gt_LtE Gt_NotEq GtE_Gt GtE_Lt "
    "GtE_Eq Is_IsNot IsNot_Is",
    "Unary": "Delete_USub Delete_Invert Delete_Not",
}
"""Of Cosmic Ray's replacements those that a test may miss: arrays of floats have no >>, texts no order."""

PLAIN = (
    "AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue "
    "ReplaceContinueWithBreak ExceptionReplacer NumberReplacer RemoveDecorator ZeroIterationForLoop"
)
OURS = {one.__name__: one for one in (Lost, Branch, Bare, Renamed, Tenth, Skipped)}


def operators():
    """Name to class of all that are applied."""
    named = [f"Replace{kind}Operator_{pair}" for kind, pairs in REPLACED.items() for pair in pairs.split()]
    return {name: get_operator(f"core/{name}") for name in (*named, *PLAIN.split())} | OURS
