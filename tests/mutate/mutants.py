"""The small wrong edits that the gate makes to a source file, one at a time, on its syntax tree.

Not edited: annotations, decorators, imports, docstrings and texts.
"""

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Edit = tuple[str, ast.AST, str, int | None, Any]  # operator, parent, field, index in it, the new child

ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
PAIRS = [("min", "max"), ("any", "all"), ("floor", "ceil"), ("argmin", "argmax"), ("minimum", "maximum")]
CALLED = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
SYMMETRIC = {
    *("min", "max", "minimum", "maximum", "logaddexp", "promote_types", "result_type", "gcd", "transpose", "swapaxes"),
    *("array_equal", "equal", "isclose", "allclose", "isinstance", "issubclass"),  # the last two raise at once
}
AXES = {"dim", "axis"}  # moved by one; -1 is not made 1, which of two axes is the same one
PROSE = {"prog", "description", "epilog", "help", "metavar"}  # of argparse, for people
ASSERTIONS = {"strict"}  # of zip: where the lengths are equal, and they are, it changes nothing
BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Mutant:
    """One edit: `identity` survives edits elsewhere in the file; `inner` means that it lies in a function's body."""

    identity: str
    path: str
    function: str
    inner: bool
    lines: range
    edit: Edit

    def apply(self) -> Any:
        """Make the edit in the tree that it came from, and give what stood there."""
        _, parent, field, index, new = self.edit
        return _put(parent, field, index, new)

    def undo(self, old: Any) -> None:
        """Take the edit back."""
        _, parent, field, index, _ = self.edit
        _put(parent, field, index, old)


def mutants(path: str, tree: ast.Module) -> list[Mutant]:
    """List every edit of a module; a repeated text within one function gets a number."""
    found, seen = [], Counter()
    for statement, function, inner, edit in _statements(tree):
        before = _header(statement)
        mutant = Mutant("", path, function, inner, _lines(statement), edit)
        old = mutant.apply()
        after = "" if edit[0] == "drop" else _header(statement)
        mutant.undo(old)
        text = f"{path}::{function} {edit[0]}: {_marked(before, after)}"
        seen[text] += 1
        identity = text if seen[text] == 1 else f"{text} #{seen[text]}"
        found.append(Mutant(identity, path, function, inner, mutant.lines, edit))
    return found


def _put(parent: ast.AST, field: str, index: int | None, new: Any) -> Any:
    if index is None:
        old = getattr(parent, field)
        setattr(parent, field, new)
        return old
    old = getattr(parent, field)[index]
    getattr(parent, field)[index] = new
    return old


def _header(statement: ast.stmt) -> str:
    """Give the normalised source of a statement, without the statements inside it and without annotations."""
    bare = copy.copy(statement)
    for field in BODIES:
        if getattr(bare, field, None):
            setattr(bare, field, [])
    if isinstance(bare, ast.FunctionDef):
        bare.decorator_list, bare.args, bare.returns = [], copy.copy(bare.args), None
        for kind in ("posonlyargs", "args", "kwonlyargs"):
            setattr(bare.args, kind, [ast.arg(a.arg) for a in getattr(bare.args, kind)])
    return " ".join(ast.unparse(ast.fix_missing_locations(bare)).split())


def _lines(statement: ast.stmt) -> range:
    """Give the lines of a statement: those of its header, and for a function (its defaults) all."""
    body = None if isinstance(statement, ast.FunctionDef) else getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(statement.lineno, last) + 1)


def _marked(before: str, after: str) -> str:
    """Show both texts as one: what they share, and {old→new} between."""
    a, b = (re.findall(r"\d[\d.]*(?:e[-+]?\d+)?|[\w.]+|[<>=!]+|\s+|\W", text) for text in (before, after))
    head = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    room = min(len(a), len(b)) - head
    tail = next((i for i in range(room) if a[-1 - i] != b[-1 - i]), room)
    old, new = ("".join(t[head : len(t) - tail]) for t in (a, b))
    return f"{''.join(a[:head])}{{{old}→{new}}}{''.join(a[len(a) - tail :])}"


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, str, bool, Edit]]:
    """Walk all statements, with the name of the outermost function around each."""

    def walk(parent: ast.AST, names: tuple[str, ...], function: str | None) -> Iterator:
        for field in BODIES:
            block = getattr(parent, field, None)
            for i, statement in enumerate(block if isinstance(block, list) else []):
                if not isinstance(statement, ast.stmt):  # an except clause or a case of a match
                    yield from walk(statement, names, function)
                    continue
                name = getattr(statement, "name", None)
                scope = function or ".".join((*names, name) if name else names) or "<module>"
                if not isinstance(statement, ast.Import | ast.ImportFrom):
                    for edit in _edits(statement, parent, field, i):
                        yield statement, scope, function is not None, edit
                if isinstance(statement, ast.ClassDef):
                    yield from walk(statement, (*names, statement.name), function)
                elif isinstance(statement, ast.FunctionDef):
                    yield from walk(statement, names, function or scope)
                else:
                    yield from walk(statement, names, function)

    yield from walk(tree, (), None)


def _edits(statement: ast.stmt, parent: ast.AST, field: str, index: int) -> Iterator[Edit]:
    if _droppable(statement, parent, field, index):
        yield "drop", parent, field, index, ast.copy_location(ast.Pass(), statement)
    if not _is_text(statement):
        yield from _inside(statement)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _droppable(statement: ast.stmt, parent: ast.AST, field: str, index: int) -> bool:
    if isinstance(statement, ast.Return):  # an early one; without the last one the result is None
        last = isinstance(parent, ast.FunctionDef) and index == len(parent.body) - 1
        return not last
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return all(isinstance(t, ast.Attribute | ast.Subscript) for t in targets)
    # an assertion always holds, so the program does not miss it
    kinds = ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete | ast.Expr
    return isinstance(statement, kinds) and not _is_text(statement)


def _inside(node: ast.AST) -> Iterator[Edit]:
    """Give the edits of a node's own expressions and of those below, not of the statements in its body."""
    skipped = {"annotation", "returns", "decorator_list", "format_spec", "type_params", *BODIES}
    if isinstance(node, ast.keyword) and node.arg in ASSERTIONS:
        return
    for field, value in ast.iter_fields(node):
        if field in skipped and not (isinstance(node, ast.IfExp | ast.Lambda) and field in BODIES):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.stmt):
                is_test = field == "test" or (field == "ifs" and isinstance(node, ast.comprehension))
                for operator, new in _replacements(child, node, is_test):
                    yield operator, node, field, index, ast.copy_location(new, child)
                yield from _inside(child)
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield "arithmetic", node, "op", None, ARITHMETIC[type(node.op)]()


def _replacements(node: ast.AST, parent: ast.AST, is_test: bool) -> Iterator[tuple[str, ast.expr]]:
    """Give what may stand in a node's place."""
    if is_test:
        negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        yield "negate", node.operand if negated else ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.Constant():
            yield from _constants(node, parent)
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(op)](), node.right)
        case ast.UnaryOp(op=ast.USub() | ast.Invert()) if not _is_axis(parent):
            yield "sign", node.operand
        case ast.UnaryOp(op=ast.Not()) if not is_test:
            yield "negate", node.operand
        case ast.BoolOp(op=op):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values)
        case ast.Compare():
            yield from _comparisons(node, alone=is_test and len(node.ops) == 1)
        case ast.Slice() if node.lower or node.upper:
            yield from _slices(node)
        case ast.Call():
            yield from _calls(node)


def _is_axis(parent: ast.AST) -> bool:
    return isinstance(parent, ast.keyword) and parent.arg in AXES


def _constants(node: ast.Constant, parent: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node.value, bool):
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield "constant", ast.Constant(node.value + 1)
        if _is_axis(parent):
            yield "axis", ast.Constant(node.value - 1)
    elif isinstance(node.value, float):
        for value in (node.value * 1.001, node.value * 0.999) if node.value else (0.001, -0.001):
            yield "constant", ast.Constant(value)


def _comparisons(node: ast.Compare, alone: bool) -> Iterator[tuple[str, ast.expr]]:
    """Move each comparison's boundary and turn it round, which for one that is a condition is its negation."""
    for i, op in enumerate(node.ops):
        for table in (BOUNDARY,) if alone else (BOUNDARY, OPPOSITE):
            if type(op) in table:
                ops = [*node.ops[:i], table[type(op)](), *node.ops[i + 1 :]]
                yield "comparison", ast.Compare(node.left, ops, node.comparators)


def _shifted(bound: ast.expr, by: int) -> ast.expr:
    return ast.BinOp(bound, ast.Add() if by > 0 else ast.Sub(), ast.Constant(1))


def _is_number(node: ast.expr | None) -> bool:
    """Tell what the edits of constants cover."""
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant))


def _slices(node: ast.Slice) -> Iterator[tuple[str, ast.expr]]:
    if not _is_number(node.lower):
        lower = _shifted(node.lower, 1) if node.lower else ast.Constant(1)
        yield "slice", ast.Slice(lower, node.upper, node.step)
    if not _is_number(node.upper):
        upper = _shifted(node.upper, -1) if node.upper else ast.UnaryOp(ast.USub(), ast.Constant(1))
        yield "slice", ast.Slice(node.lower, upper, node.step)


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    if name in CALLED:
        func = copy.copy(node.func)
        setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", CALLED[name])
        yield "call", ast.Call(func, node.args, node.keywords)
    at = min(1, len(node.args) - 1)
    if name == "range" and not _is_number(node.args[at]):
        args = [*node.args[:at], _shifted(node.args[at], -1), *node.args[at + 1 :]]
        yield "slice", ast.Call(node.func, args, node.keywords)
    if name in SYMMETRIC:
        return
    for i in range(len(node.args) - 1):
        a, b = node.args[i : i + 2]
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred) and ast.dump(a) != ast.dump(b):
            yield "swap", ast.Call(node.func, [*node.args[:i], b, a, *node.args[i + 2 :]], node.keywords)
    for i in range(len(node.keywords) - 1):
        a, b = node.keywords[i : i + 2]
        if a.arg and b.arg and not {a.arg, b.arg} & PROSE and ast.dump(a.value) != ast.dump(b.value):
            swapped = [ast.keyword(a.arg, b.value), ast.keyword(b.arg, a.value)]
            yield "swap", ast.Call(node.func, node.args, [*node.keywords[:i], *swapped, *node.keywords[i + 2 :]])
