"""The text of a symbolic size in a ``.pt2`` file, judged before sympy computes it: torch's own are small arithmetic.

A few characters may ask for more than any memory holds or than anybody waits for: towers of powers, precisions of millions of
digits, and polynomials that divisions expand and look for common factors in. What torch writes (``sympy.srepr``) is far below
the limits here.
"""

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_LONGEST, _MOST_PARTS, _DEEPEST, _MOST_OF_A_CHOICE = 10_000, 200, 60, 16
_LARGEST, _LARGEST_EXPONENT, _LARGEST_SHIFT = 2**63, 8, 63
_LARGEST_DEGREE, _MOST_TERMS = 16, 512
_MOST_TERMS_DIVIDED = 64
"""Of the product of both sides of a division, with a sum for a divisor: sympy looks for what they have in common."""

_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}")
_DIM = re.compile(r"[a-zA-Z]\w{0,31}")
_DIGITS = re.compile(r"-?[\d.]{1,40}(?:e[+-]?\d{1,3})?")
_WORDS = {"True", "False", "true", "false", "oo", "int_oo"}
_ASSUMPTIONS = {"integer", "positive", "nonnegative", "real", "negative", "nonzero", "zero", "nonpositive", "finite"}
_PRECISION = 53  # of a double; torch writes no other

_SUMS = {"Add"}
_PRODUCTS = {"Mul"}
_POWERS = {"Pow", "PowByNatural", "FloatPow"}
_SHIFTS = {"LShift", "RShift"}
_DIVISIONS = {
    *("Mod", "FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing", "FloatTrueDiv", "IntTrueDiv", "RoundDecimal")
}
_CHOICES = {"Max", "Min", "Where", "And", "Or", "IsNonOverlappingAndDenseIndicator"}
_OTHERS = {
    *("Abs", "CeilToInt", "FloorToInt", "TruncToFloat", "TruncToInt", "RoundToInt", "ToFloat", "Identity", "Not"),
    *("floor", "ceiling", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality"),
    *("StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
}
_CALLED = _SUMS | _PRODUCTS | _POWERS | _SHIFTS | _DIVISIONS | _CHOICES | _OTHERS
_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "Add", ast.Sub: "Add", ast.Mult: "Mul", ast.Pow: "Pow", ast.LShift: "LShift", ast.RShift: "RShift",
    ast.Div: "IntTrueDiv", ast.FloorDiv: "FloorDiv", ast.Mod: "Mod", ast.BitAnd: "And", ast.BitOr: "Or",
}  # fmt: skip


class _Refused(Exception):
    """It is not what torch writes."""


@dataclass(frozen=True, slots=True)
class _Extent:
    """How large an expression is once it is expanded: the degree of the polynomial and the number of its terms."""

    degree: int = 0
    terms: int = 1
    sums: bool = False
    """Whether it holds a sum, at any depth."""


@dataclass(slots=True)
class _Reader:
    parts: int = 0
    work: int = 0

    def extent(self, node: ast.AST, depth: int = 0) -> _Extent:
        self.parts, self.work = self.parts + 1, self.work + 1
        if depth > _DEEPEST or self.parts > _MOST_PARTS:
            raise _Refused
        name, given = _called(node)
        if name is None:
            return _atom(node)
        if name in _POWERS | _SHIFTS:
            return self._raised(name, given, depth)
        found = _bounded(_joined(name, [self.extent(each, depth + 1) for each in given]))
        if name in _CHOICES:
            self.work += 4 * (len(given) - 2) ** 2  # each is compared with each
        elif name in _DIVISIONS:
            self.work += 4 * (found.terms - 1)  # and expanded
        return found

    def _raised(self, name: str, given: list[ast.expr], depth: int) -> _Extent:
        """A small number as exponent: a tower of powers is a few characters, and no memory holds what it is."""
        if len(given) != 2:
            raise _Refused
        base, by = self.extent(given[0], depth + 1), abs(_number(given[1]))
        if by > (_LARGEST_SHIFT if name in _SHIFTS else _LARGEST_EXPONENT):
            raise _Refused
        if name in _SHIFTS:
            return _bounded(_Extent(base.degree + 1, base.terms, base.sums))
        times = max(1, math.ceil(by))
        return _bounded(_Extent(max(1, base.degree) * times, base.terms**times, base.sums))


def is_arithmetic(text: object) -> bool:
    """Whether ``text`` is made of numbers, symbols and torch's arithmetic of sizes alone, and small once it is computed."""
    return isinstance(text, str) and work(text) is not None


@lru_cache(maxsize=4096)
def work(text: str) -> int | None:
    """What it takes to compute ``text``, about a millisecond each at worst; None where it is no arithmetic, or no small one."""
    if len(text) > _LONGEST:
        return None
    reader = _Reader()
    try:
        reader.extent(ast.parse(text.strip(), mode="eval").body)
    except (_Refused, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return reader.work


def _called(node: ast.AST) -> tuple[str | None, list[ast.expr]]:
    """What ``node`` applies, and to what; None for an atom."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)], [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd | ast.Not | ast.Invert):
        return "Identity", [node.operand]
    if isinstance(node, ast.Compare) and not any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops):
        return "Eq", [node.left, *node.comparators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLED and not node.keywords:
        return node.func.id, node.args
    return None, []


def _joined(name: str, given: list[_Extent]) -> _Extent:
    if not given or (name in _CHOICES and len(given) > _MOST_OF_A_CHOICE):
        raise _Refused
    degrees, terms = [each.degree for each in given], [each.terms for each in given]
    sums = any(each.sums for each in given)
    if name in _PRODUCTS:
        return _Extent(sum(degrees), math.prod(terms), sums)
    if name in _DIVISIONS:
        if any(each.sums for each in given[1:]) and math.prod(terms) > _MOST_TERMS_DIVIDED:
            raise _Refused
        return _Extent(sum(degrees), math.prod(terms), sums)
    return _Extent(max(degrees), sum(terms), sums or (name in _SUMS and len(given) > 1))


def _bounded(found: _Extent) -> _Extent:
    if found.degree > _LARGEST_DEGREE or found.terms > _MOST_TERMS:
        raise _Refused
    return found


def _atom(node: ast.AST) -> _Extent:
    if isinstance(node, ast.Name):
        if node.id not in _WORDS and not _SYMBOL.fullmatch(node.id):
            raise _Refused
        return _Extent(degree=int(node.id not in _WORDS))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Symbol":
        _check_symbol(node)
        return _Extent(degree=1)
    _number(node)
    return _Extent()


def _check_symbol(node: ast.Call) -> None:
    (name,) = node.args  # ValueError for any other number
    named = isinstance(name, ast.Constant) and isinstance(name.value, str) and _DIM.fullmatch(name.value)
    if not named or not all(
        each.arg in _ASSUMPTIONS and isinstance(each.value, ast.Constant) and isinstance(each.value.value, bool)
        for each in node.keywords
    ):
        raise _Refused


def _number(node: ast.AST) -> float:
    """The value of a plain number: ``2``, ``-1.5``, ``Integer(-1)``, ``Rational(1, 2)``, ``Float('1.5', precision=53)``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        return _small(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (read := _NUMBERS.get(node.func.id)):
        return read(node)
    raise _Refused


def _small(value: float) -> float:
    if not abs(value) < _LARGEST:  # nor is "not a number"
        raise _Refused
    return value


def _integer(node: ast.Call) -> float:
    (value,) = node.args
    if node.keywords or not isinstance(value, ast.Constant | ast.UnaryOp):
        raise _Refused
    return _number(value)


def _rational(node: ast.Call) -> float:
    above, below = node.args
    if node.keywords or not all(isinstance(each, ast.Constant | ast.UnaryOp) for each in node.args) or not _number(below):
        raise _Refused
    return _number(above) / _number(below)


def _float(node: ast.Call) -> float:
    """In digits, as torch writes it, or as a number; with the precision of a double, or none said."""
    (value,) = node.args
    said = [(each.arg, each.value.value if isinstance(each.value, ast.Constant) else None) for each in node.keywords]
    if said not in ([], [("precision", _PRECISION)]):
        raise _Refused
    if isinstance(value, ast.Constant) and isinstance(value.value, str) and _DIGITS.fullmatch(value.value):
        return _small(float(value.value))
    if isinstance(value, ast.Constant | ast.UnaryOp):
        return _number(value)
    raise _Refused


_NUMBERS: dict[str, Callable[[ast.Call], float]] = {"Integer": _integer, "Rational": _rational, "Float": _float}
