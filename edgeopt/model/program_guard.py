"""What a ``.pt2`` archive may hold before torch sees it: tensors and a graph of known operators, nothing that runs when read.

torch's reader trusts its files. It unpickles (sample inputs, weights marked as pickled, custom objects), loads compiled
libraries (``data/aotinductor``), evaluates the text of symbolic sizes with ``sympy.sympify``, which is Python's ``eval``,
imports modules that a tree of arguments names, and looks operators up by attribute from ``torch`` on (torch 2.13:
``_export/serde/serialize.py``, ``export/pt2_archive/_package.py``, ``utils/_pytree.py``). So an archive is read here first,
member by member, and what is known goes on in an archive of our own: what torch reads is what was looked at.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeopt.errors import ModelError
from edgeopt.model.program_sizes import MOST_MEMBERS, fields, is_much_json, too_large, unfit_record
from edgeopt.model.size_text import is_arithmetic, work
from edgeopt.support.untrusted import opened

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|models/model\.json"
    r"|data/sample_inputs/model\.pt|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|extra/[\w.-]+"
)
_LIBRARIES = ("aten", "prims", "quantized_decomposed", "torchao", "torchvision", "edgeopt")
_HIGHER_ORDER = ("cond", "while_loop", "scan", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast")
_VALUES = ("tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values")
_UNSAFE = {"from_file", "save", "load"}
"""Operators of these libraries that open files."""
_TARGET = re.compile(
    rf"torch\.ops\.(?:{'|'.join(_LIBRARIES)})\.\w+\.\w+|torch\.ops\.higher_order\.(?:{'|'.join(_HIGHER_ORDER)})"
    r"|torch\.sym_\w+|torch\._sym_\w+|math\.\w+"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|invert|lshift|rshift)"
)
_DEEPEST, _MOST_DIMENSIONS = 200, 64
_WORK, _WORK_OF_A_VALUE = 5_000, 100
"""For all sizes of a graph together, as :func:`.size_text.work` counts: at least, and for each value that it has."""


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
                members[name] = _checked(name, content, members)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise _refusal(f"{path} is no .pt2 archive", f"its JSON is broken: {type(error).__name__}") from error
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    rewritten.seek(0)
    return rewritten


def _checked(name: str, content: bytes, members: Mapping[str, bytes]) -> bytes:
    """The JSON of a member as torch may read it. Raises ValueError, AttributeError or TypeError where it is of another form."""
    if is_much_json(content):
        raise _refusal("the .pt2 archive says more than edgeopt reads", f"{name} has {len(content)} bytes")
    if not isinstance(value := json.loads(content), dict):
        raise _refusal("a member of the .pt2 archive is no object", name)
    _check_json(name, value)
    if name != MODEL:
        if unfit := unfit_record(value, name.rpartition("/")[0], members):
            raise _refusal("a tensor in the .pt2 archive is not what it is said to be", unfit)
        return content
    if found := too_large(value):
        raise _refusal("the .pt2 archive asks for a tensor that is too large", f"{found}; edgeopt takes 2**31 elements at most")
    _refuse_much_work(value)
    return json.dumps(value).encode() if value.pop("guards_code", None) else content  # Python, to be compiled; needed by nobody


def _refuse_overlaps(archive: zipfile.ZipFile, size: int) -> None:
    """Members may be the same bytes of the file, a thousand times over: stored as they are, they have its size at most."""
    if sum(info.file_size for info in archive.infolist()) > size:
        raise _refusal("the .pt2 archive has more in it than bytes", "its members overlap, or are compressed")


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Each member without the root folder of the archive, and its content."""
    seen = set()
    if len(archive.infolist()) > MOST_MEMBERS:
        raise _refusal("the .pt2 archive holds more than edgeopt reads", f"it has {len(archive.infolist())} members")
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


def _refuse_much_work(model: Any) -> None:
    """Sizes that are small each may be many: a graph of some hundred values has no use for an hour of them."""
    texts: list[str] = []
    values = 0
    for key, value, _ in fields(model):
        if key == "expr_str":
            texts.append(value)
        elif key in _VALUES and isinstance(value, dict):
            values += len(value)
    asked = sum(work(text) or 0 for text in texts)
    if asked > _WORK + _WORK_OF_A_VALUE * values:
        hardest = max(texts, key=lambda text: work(text) or 0)
        raise _refusal("the sizes in the .pt2 archive take too long to compute", f"{len(texts)} of them, as {_shown(hardest)}")


def _check_pair(name: str, key: str, value: Any) -> None:
    """A field that torch gives a meaning beyond data."""
    if key == "use_pickle" and value:
        raise _refusal("the .pt2 archive holds pickled objects", f"{name}: they could run any code when they are read")
    if key == "expr_str" and not is_arithmetic(value):
        raise _refusal("a size in the .pt2 archive is no arithmetic", f"{name}: {_shown(value)}")
    if key in ("sizes", "strides") and isinstance(value, list) and len(value) > _MOST_DIMENSIONS:
        raise _refusal(f"a tensor in the .pt2 archive has {len(value)} dimensions", f"edgeopt reads {_MOST_DIMENSIONS} at most")
    if key in ("target", "as_operator") and isinstance(value, str) and name == MODEL and not _is_operator(value):
        raise _refusal("the .pt2 archive calls what edgeopt does not know as an operator", _shown(value))
    if key in ("in_spec", "out_spec") and isinstance(value, str):
        _check_tree(value)
    if key == "as_custom_obj":
        raise _refusal("the .pt2 archive holds a custom object", "its class would have to be loaded")
    if key == "range_constraints" and not (isinstance(value, dict) and all(map(is_arithmetic, value))):
        raise _refusal("the .pt2 archive names sizes as torch does not", _shown(value))


def _is_operator(target: str) -> bool:
    """Tensors and parameters of the signature are targets too: dotted names that lead nowhere from ``torch`` on."""
    if not target.startswith(("torch", "_operator", "math", "#")):
        return True
    return bool(_TARGET.fullmatch(target)) and not _UNSAFE & set(target.split("."))


def _check_tree(text: str) -> None:
    """Trees of arguments may name modules to import: for enumerations as keys, and for what a defaultdict makes."""
    if "__enum__" in text or "defaultdict" in text or "default_factory" in text or "\\u" in text:
        raise _refusal("the .pt2 archive's arguments are of types that would be imported", _shown(text))


def _shown(text: object) -> str:
    return repr(str(text)[:120])


def _refusal(what: str, why: str) -> ModelError:
    fix = "save it again with torch.export.save, tensors only, in this version of torch; or give the module as file.py:name"
    return ModelError(what, why=why, fix=fix)
