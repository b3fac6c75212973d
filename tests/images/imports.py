"""What the library imports, read from its sources: imports inside functions count too."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.images.building import ROOT


def imports_of(modules: list[str]) -> set[str]:
    """Top-level packages, other than Python's own, that some modules may import, and all of the library they import."""
    seen, todo, found = set(), list(modules), set()
    while todo:
        module = todo.pop()
        file = file_of(module)
        if module in seen or file is None:
            continue
        seen.add(module)
        for name in imported_by(file):
            if name.startswith("fti."):
                todo.append(name)
            elif (top := name.split(".")[0]) not in sys.stdlib_module_names:
                found.add(top)
    return found


def file_of(module: str) -> Path | None:
    _, first, *rest = [*module.split("."), ""]
    folder = ROOT / first if first in ("pipelines", "feature_repo") else ROOT / "components" / first
    path = folder.joinpath(*rest[:-1]) if rest else folder
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def imported_by(file: Path) -> frozenset[str]:
    """Names of modules, imported anywhere in a file but for type checkers."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return frozenset(walk(ast.parse(file.read_text())))
