"""What importing a module of edgeopt imports at once, read from the sources: nothing in functions, nothing for types alone."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def third_party(modules: Iterable[str], standard: Iterable[str]) -> set[str]:
    """Names of the libraries that importing ``modules`` imports, through whatever other modules of edgeopt."""
    seen: set[str] = set()
    waiting, found = list(modules), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or (file := _file(name)) is None:
            continue
        seen.add(name)
        parents = name.split(".")
        waiting += [".".join(parents[:length]) for length in range(1, len(parents))]
        for imported in _imports(ast.parse(file.read_text(encoding="utf-8")).body):
            if imported.partition(".")[0] == "edgeopt":
                waiting.append(imported)
            else:
                found.add(imported.partition(".")[0])
    return found - set(standard)


def _file(name: str) -> Path | None:
    """The source of a module; None for a name inside one."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)
        elif isinstance(node, ast.ClassDef | ast.With | ast.Try):
            yield from _imports(node.body)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _imports([*node.body, *node.orelse])
