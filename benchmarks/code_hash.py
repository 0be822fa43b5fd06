"""A short hash of the code that decides a result, so that changed code never reuses old results.

Comments, docstrings and layout do not count; what the code does not reach does not count either.
"""

from __future__ import annotations

import ast
from hashlib import blake2b
from pathlib import Path

PACKAGES = ("tabwright", "ai.ml.frameworks.pytorch")


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


def hash_modules(root: Path, entry: str) -> str:
    """Hash a module and every module of ours that it imports, at once or later.

    Parameters
    ----------
    root : Path
        The folder that holds the packages.
    entry : str
        Dotted name of the module.
    """
    parts: dict[str, ast.AST] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = _module_file(root, name)
        if name in parts or path is None or not name.startswith(PACKAGES):
            continue
        parts[name] = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(parts[name]):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return _digest(parts)


def _module_file(root: Path, name: str) -> Path | None:
    """The file of a module or package; the lazy public face, which imports all, is none."""
    path = root.joinpath(*name.split("."))
    files = [path.with_suffix(".py")] + ([path / "__init__.py"] if "." in name else [])
    return next((file for file in files if file.is_file()), None)


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
