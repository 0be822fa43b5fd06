"""A short hash of the code that decides a result, so that changed code never reuses old results.

Comments, docstrings and layout do not count; what the code does not reach does not count either.
"""

from __future__ import annotations

import ast
from hashlib import blake2b
from pathlib import Path

PACKAGE = "ai.ml.frameworks.pytorch"


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def _digest(parts: dict[str, ast.AST]) -> str:
    digest = blake2b(digest_size=8)
    for name in sorted(parts):
        digest.update(f"{name}\n{ast.dump(_without_docstrings(parts[name]))}\n".encode())
    return digest.hexdigest()


def hash_modules(root: Path, entry: str, package: str = PACKAGE) -> str:
    """Hash a module and every module of its package that it imports, at once or later.

    Parameters
    ----------
    root : Path
        The folder that holds the package's first part.
    entry : str
        Name of the module in the package.
    package : str
        The package.
    """
    folder = root.joinpath(*package.split("."))
    parts: dict[str, ast.AST] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = folder / f"{name}.py"
        if name in parts or not path.is_file():
            continue
        parts[name] = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(parts[name]):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                if node.module == package:
                    waiting += [alias.name for alias in node.names]
                elif node.module.startswith(f"{package}."):
                    waiting.append(node.module.removeprefix(f"{package}.").split(".")[0])
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                waiting += [
                    n.removeprefix(f"{package}.") for n in names if n.startswith(f"{package}.")
                ]
    return _digest(parts)


def hash_definition(path: Path, name: str) -> str:
    """Hash a top-level definition of a file and every top-level definition of it that it uses."""
    found: dict[str, ast.AST] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    if name not in found:
        raise ValueError(f"{path.name} must define {name} at its top level; it does not")
    parts: dict[str, ast.AST] = {}
    waiting = [name]
    while waiting:
        used = waiting.pop()
        if used in parts or used not in found:
            continue
        parts[used] = found[used]
        waiting += [node.id for node in ast.walk(found[used]) if isinstance(node, ast.Name)]
    return _digest(parts)


def hash_file(path: Path) -> str:
    """Hash one whole file."""
    return _digest({path.name: ast.parse(path.read_text(encoding="utf-8"))})
