"""What a ``.pt2`` archive may hold before torch sees it: tensors and a graph of known operators, nothing that runs when read.

torch's reader trusts its files. It unpickles (sample inputs, weights marked as pickled, custom objects), loads compiled
libraries (``data/aotinductor``), evaluates the text of symbolic sizes with ``sympy.sympify``, which is Python's ``eval``,
imports modules that a tree of arguments names, and looks operators up by attribute from ``torch`` on (torch 2.13:
``_export/serde/serialize.py``, ``export/pt2_archive/_package.py``, ``utils/_pytree.py``). So an archive is read here first,
member by member, and what is known goes on in an archive of our own: what torch reads is what was looked at.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeopt.errors import ModelError
from edgeopt.untrusted import opened

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|models/model\.json"
    r"|data/sample_inputs/model\.pt|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|extra/[\w.-]+"
)
_LIBRARIES = ("aten", "prims", "quantized_decomposed", "torchao", "torchvision", "edgeopt")
_HIGHER_ORDER = ("cond", "while_loop", "scan", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast")
_UNSAFE = {"from_file", "save", "load"}
"""Operators of these libraries that open files."""
_TARGET = re.compile(
    rf"torch\.ops\.(?:{'|'.join(_LIBRARIES)})\.\w+\.\w+|torch\.ops\.higher_order\.(?:{'|'.join(_HIGHER_ORDER)})"
    r"|torch\.sym_\w+|torch\._sym_\w+|math\.\w+"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|invert|lshift|rshift)"
)
_FUNCTIONS = {
    *(
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Max",
        "Min",
        "Abs",
        "floor",
        "ceiling",
        "Mul",
        "Add",
        "Mod",
        "FloorDiv",
        "Where",
    ),
    *("ModularIndexing", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "RShift", "FloatTrueDiv", "IntTrueDiv"),
    *("TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity", "IsNonOverlappingAndDenseIndicator"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Equality", "Unequality", "StrictLessThan", "LessThan"),
    *("StrictGreaterThan", "GreaterThan", "Piecewise", "sqrt", "log"),
}
_POWERS = {"Pow", "PowByNatural", "FloatPow", "LShift"}
_NODES = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Tuple,
)  # fmt: skip
_LONGEST_EXPRESSION, _LARGEST_EXPONENT, _MOST_POWERS, _DEEPEST = 4096, 64, 3, 200


def guarded(path: Path) -> io.BytesIO:
    """The archive at ``path`` with nothing but known members, for torch to read. Raises ModelError for any other."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            _refuse_overlaps(archive, path.stat().st_size)
            members = dict(_members(archive))
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise _refusal(f"{path} is no .pt2 archive", str(error)) from error
    try:
        for name, content in members.items():
            if name.endswith(".json") and not name.startswith("extra/"):
                if not isinstance(value := json.loads(content), dict):
                    raise _refusal("a member of the .pt2 archive is no object", name)
                _check_json(name, value)
                if name == MODEL and value.pop("guards_code", None):  # Python, to be compiled; the graph does without
                    members[name] = json.dumps(value).encode()
    except (ValueError, RecursionError) as error:
        raise _refusal(f"{path} is no .pt2 archive", f"its JSON is broken: {type(error).__name__}") from error
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    rewritten.seek(0)
    return rewritten


def _refuse_overlaps(archive: zipfile.ZipFile, size: int) -> None:
    """Members may be the same bytes of the file, a thousand times over: stored as they are, they have its size at most."""
    if sum(info.file_size for info in archive.infolist()) > size:
        raise _refusal("the .pt2 archive has more in it than bytes", "its members overlap, or are compressed")


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Each member without the root folder of the archive, and its content."""
    seen = set()
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        if not _MEMBERS.fullmatch(name) or not root or name in seen:
            raise _refusal("the .pt2 archive holds what edgeopt does not read", f"the member {_shown(info.filename)}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _refusal("the .pt2 archive is compressed or encrypted", "torch.export.save writes neither")
        seen.add(name)
        yield name, archive.read(info)


def _check_json(name: str, value: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise _refusal("the .pt2 archive is nested too deep", name)
    if isinstance(value, list):
        for each in value:
            _check_json(name, each, depth + 1)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_pair(name, key, each)
            _check_json(name, each, depth + 1)


def _check_pair(name: str, key: str, value: Any) -> None:
    """A field that torch gives a meaning beyond data."""
    if key == "use_pickle" and value:
        raise _refusal("the .pt2 archive holds pickled objects", f"{name}: they could run any code when they are read")
    if key == "expr_str" and not _is_arithmetic(value):
        raise _refusal("a size in the .pt2 archive is no arithmetic", f"{name}: {_shown(value)}")
    if key in ("target", "as_operator") and isinstance(value, str) and name == MODEL and not _is_operator(value):
        raise _refusal("the .pt2 archive calls what edgeopt does not know as an operator", _shown(value))
    if key in ("in_spec", "out_spec") and isinstance(value, str):
        _check_tree(value)
    if key == "as_custom_obj":
        raise _refusal("the .pt2 archive holds a custom object", "its class would have to be loaded")
    if key == "range_constraints" and not (isinstance(value, dict) and all(map(_is_arithmetic, value))):
        raise _refusal("the .pt2 archive names sizes as torch does not", _shown(value))


def _is_operator(target: str) -> bool:
    """Tensors and parameters of the signature are targets too: dotted names that lead nowhere from ``torch`` on."""
    if not target.startswith(("torch", "_operator", "math", "#")):
        return True
    return bool(_TARGET.fullmatch(target)) and not _UNSAFE & set(target.split("."))


def _is_arithmetic(text: Any) -> bool:
    """Whether ``text`` is made of numbers, symbols and sympy's arithmetic alone, with no tower of powers."""
    if not isinstance(text, str) or len(text) > _LONGEST_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = [*ast.walk(tree)]
    return all(isinstance(node, _NODES) and _is_plain(node) for node in nodes) and sum(map(_is_power, nodes)) <= _MOST_POWERS


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS | _POWERS
        return known and (not _is_power(node) or (len(node.args) == 2 and _is_exponent(node.args[1])))
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS | _POWERS or bool(re.fullmatch(r"[a-z]{1,4}\d{1,6}|True|False|oo|int_oo", node.id))
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return bool(re.fullmatch(r"[a-zA-Z]\w{0,31}", node.value))
        return isinstance(node.value, bool | int | float) and abs(node.value) < 2**64
    return not _is_power(node) or (isinstance(node, ast.BinOp) and _is_exponent(node.right))


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _POWERS
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift)


def _is_exponent(node: ast.AST) -> bool:
    """A small number: a tower of powers is a few characters, and no memory holds what it is."""
    node = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value < _LARGEST_EXPONENT


def _check_tree(text: str) -> None:
    """Trees of arguments may name modules to import: for enumerations as keys, and for what a defaultdict makes."""
    if "__enum__" in text or "defaultdict" in text or "default_factory" in text or "\\u" in text:
        raise _refusal("the .pt2 archive's arguments are of types that would be imported", _shown(text))


def _shown(text: object) -> str:
    return repr(str(text)[:120])


def _refusal(what: str, why: str) -> ModelError:
    fix = "save it again with torch.export.save, tensors only, in this version of torch; or give the module as file.py:name"
    return ModelError(what, why=why, fix=fix)
