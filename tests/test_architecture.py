"""A package imports only from those above it in docs/architecture.md, functions included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import CONTRACT, FOLDER, PACKAGE, ROOT, module_name, modules, parts, parts_in

ORDER = [part.name for part in parts()]


def part_of(dotted: str) -> str:
    """The row of the table that a module of ours belongs to; `__init__` is the public face."""
    if dotted == PACKAGE:
        return "__init__"
    if dotted == CONTRACT or dotted.startswith(f"{CONTRACT}."):
        return CONTRACT if dotted != CONTRACT else "__init__"
    inner = dotted.removeprefix(f"{PACKAGE}.")
    fitting = [name for name in ORDER if inner == name or inner.startswith(f"{name}.")]
    return max(fitting, key=len, default=inner.split(".")[0])


def imported(source: str, module: str = "") -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of ours, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        for name in _names(node, module):
            if name.split(".")[0] == PACKAGE or name.startswith(CONTRACT):
                yield getattr(node, "lineno", 0), name


def _names(node: ast.AST, module: str) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=base, names=names, level=level):
            if level:
                base = ".".join([*module.split(".")[:-level], *filter(None, [base])])
            for alias in names:
                path = FOLDER.parent.joinpath(*f"{base}.{alias.name}".split("."))
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield f"{base}.{alias.name}" if is_module else str(base)
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(func).split(".")[-1] in ("import_module", "__import__"):
                yield name


def test_every_module_belongs_to_a_row_and_every_row_has_a_module() -> None:
    held = {part_of(module_name(path)) for path in modules()}
    assert sorted(held) == sorted(ORDER)


def test_no_package_has_two_rows() -> None:
    assert len(set(ORDER)) == len(ORDER)


def test_packages_are_small() -> None:
    folders = {path.parent for path in modules()}
    crowded = {f.name: n for f in folders if (n := len(list(f.glob("[!_]*.py")))) > 14}
    assert crowded == {}


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_module_imports_only_from_packages_above_its_own(path: Path) -> None:
    module = module_name(path)
    own = part_of(module)
    allowed = {*ORDER[: ORDER.index(own) + 1], CONTRACT}
    source = path.read_text(encoding="utf-8")
    inner = f"{module}.__init__" if path.name == "__init__.py" else module
    wrong = [
        f"line {line}: {name}"
        for line, name in imported(source, inner)
        if part_of(name) not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import tabwright.metrics", "tabwright.metrics"),
        ("import numpy, tabwright.metrics as m", "tabwright.metrics"),
        ("from tabwright.metrics import decision_intervals", "tabwright.metrics"),
        ("from tabwright import metrics", "tabwright.metrics"),
        ("from tabwright.tables import cells", "tabwright.tables.cells"),
        ("from . import cells", "tabwright.tables.cells"),
        ("from .cells import x", "tabwright.tables.cells"),
        ("from ..metrics import x", "tabwright.metrics"),
        ("def f():\n    from tabwright.metrics import x", "tabwright.metrics"),
        ("if TYPE_CHECKING:\n    from tabwright.metrics import x", "tabwright.metrics"),
        ("importlib.import_module('tabwright.metrics')", "tabwright.metrics"),
        ("from tabwright import TabularClassifier", "tabwright"),
        (f"from {CONTRACT}.models import MLP", f"{CONTRACT}.models"),
        (f"from {CONTRACT} import models", f"{CONTRACT}.models"),
    ],
)
def test_reader_sees_every_form_of_import(source: str, name: str) -> None:
    assert [found for _, found in imported(source, "tabwright.tables.frames")] == [name]


@pytest.mark.parametrize("source", ["import torch", "from os import path", "f('models')"])
def test_reader_leaves_other_imports_alone(source: str) -> None:
    assert list(imported(source)) == []


def test_a_module_belongs_to_the_innermost_package() -> None:
    assert part_of("tabwright.training.engine.dropout") == "training.engine"
    assert part_of("tabwright.training.loop") == "training"
    assert part_of("tabwright") == "__init__"
    assert part_of(CONTRACT) == "__init__"


def test_table_is_read_in_its_order() -> None:
    table = (
        "<!-- packages -->\n| package | loads torch | owns |\n|---|---|---|\n"
        "| `b` | yes | x |\n| `a.c` | no | y |\n<!-- /packages -->\n| `d` | no | z |\n"
    )
    assert parts_in(table) == [("b", True), ("a.c", False)]
    with pytest.raises(ValueError, match="2 rows, but 1 of the form"):
        parts_in(table.replace("`a.c`", "a.c"))
    with pytest.raises(ValueError, match="no table between"):
        parts_in("nothing")


# Fields of a record that its maker may leave unnamed, and parameters that a function may have.
MOST_UNNAMED = 5
MOST_PARAMETERS = 10
# Their parameters are what users set: an option of a command, a parameter of an estimator, an
# argument of a function that `tabwright` exports.
PUBLIC_SIGNATURES = (
    "cli.commands.",
    "estimators.",
    "report.write.write_report",
    "tuning.run.tune",
)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def records(tree: ast.AST) -> set[str]:
    """Names of the dataclasses and named tuples that a module defines."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(
            "dataclass" in ast.unparse(part) or "NamedTuple" in ast.unparse(part)
            for part in (*node.decorator_list, *node.bases)
        )
    }


def over_limits(tree: ast.AST, known: set[str], place: str = "") -> Iterator[str]:
    """Where a record is made of too many unnamed values, or a function has too many parameters."""
    for node in ast.iter_child_nodes(tree):
        inner = place
        if isinstance(node, ast.ClassDef | _Function):
            inner = f"{place}.{node.name}"
        if isinstance(node, _Function):
            arguments = node.args
            names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            if len([own for own in names if own.arg not in ("self", "cls")]) > MOST_PARAMETERS:
                yield inner.lstrip(".")
        if isinstance(node, ast.Call) and len(node.args) > MOST_UNNAMED:
            name = ast.unparse(node.func).split(".")[-1]
            name = place.lstrip(".").split(".")[0] if name == "cls" else name
            if name in known:
                yield f"{place.lstrip('.')}: {name}"
        yield from over_limits(node, known, inner)


def test_no_record_of_unnamed_values_and_no_function_of_many_parameters() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in modules()}
    known = {name for tree in trees.values() for name in records(tree)}
    found = {
        f"{module_name(path).removeprefix(f'{PACKAGE}.')}.{place}"
        for path, tree in trees.items()
        for place in over_limits(tree, known)
    }
    found = {place for place in found if not place.startswith(PUBLIC_SIGNATURES)}
    assert sorted(found) == []


def test_reader_sees_what_is_over_the_limits() -> None:
    tree = ast.parse(
        "@dataclass\nclass A:\n    def f(self, a, b, c, d, e, f, g, h, i, j):\n"
        "        return cls(1, 2, 3, 4, 5, 6)\n"
        "def g(a, b, c, d, e, f, g, h, i, *, j, k):\n    return A(1, 2, 3, 4, 5)"
    )
    assert records(tree) == {"A"}
    assert list(over_limits(tree, {"A"})) == ["A.f: A", "g"]


# Names with an underscore that are no secret of a module of ours: those of named tuples, of PyTorch
# and scikit-learn where they have no other, of Typer's copy of Click.
FOREIGN_PRIVATE = frozenset(
    {
        "_replace",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_baseline_prediction",
        "_click",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_predictors",
    }
)


def foreign_private_names(source: str) -> Iterator[str]:
    """Private names that a module takes from another module."""
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | _Function)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            # Names of slots and of fields in another's call.
            case ast.Constant(value=str(name)):
                own.add(name)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith(PACKAGE):
                yield from (own.name for own in names if _is_private(own.name))
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                continue
            case ast.Attribute(attr=name) if _is_private(name) and name not in own:
                yield name


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in FOREIGN_PRIVATE


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_no_module_takes_private_names_of_another(path: Path) -> None:
    found = set(foreign_private_names(path.read_text(encoding="utf-8")))
    assert found - {"_kernels", "_version"} == set()


@pytest.mark.parametrize(
    "source",
    [
        "from tabwright.a import _x",
        "import tabwright.a\ntabwright.a._x()",
        "def f(other): return other._x",
        "class A:\n    def f(self, other): return self._y + other._x",
    ],
)
def test_reader_sees_private_names_of_others(source: str) -> None:
    assert list(foreign_private_names(source)) == ["_x"]


@pytest.mark.parametrize(
    "source",
    [
        "from tabwright.a import x",
        "class A:\n    def f(self, other): self._x = other._x",
        "class A(B):\n    def f(self): return self._x + super()._x()",
        "def f(row): return row._replace(a=1)",
    ],
)
def test_reader_leaves_own_private_names_alone(source: str) -> None:
    assert list(foreign_private_names(source)) == []


# Where modules are tested that have no test file of their name and that no test imports.
TESTED_IN = {
    "cluster/test_ray_job.py": ["cluster.ray_cluster"],
    "estimators/test_adaptive_intervals.py": ["fitting.intervals"],
    "artifact/test_container.py": ["artifact.strict_json"],
    "cli/test_app.py": [
        "cli.brief_command",
        "cli.commands.evaluate",
        "cli.commands.inspect",
        "cli.commands.modes",
        "cli.commands.predict",
        "cli.commands.train",
        "cli.completion",
        "cli.options",
        "cli.settings_file",
    ],
    "cli/test_one_answer.py": [
        "cli.commands.importance",
        "cli.errors",
        "workflows.requests.outputs",
    ],
    "distillation/test_teachers.py": [
        "distillation.estimator_teachers",
        "distillation.trees.boosting_libraries",
        "distillation.trees.scikit_learn",
    ],
    "encoding/test_encoder.py": ["encoding.layout", "encoding.plan", "encoding.plan_fit"],
    "encoding/test_pair_columns.py": ["encoding.oblique"],
    "encoding/test_value_statistics.py": ["encoding.supervised.held_out_rows"],
    "estimators/test_estimators.py": [
        "estimators.base",
        "estimators.distill",
        "estimators.fitted",
        "estimators.inputs",
        "estimators.loading",
        "estimators.messages",
        "fitting.class_weights",
        "fitting.finishing",
        "fitting.targets",
    ],
    "explanation/test_command.py": [
        "cli.commands.explain",
        "explanation.columns",
        "explanation.effects",
    ],
    "export/test_onnx.py": ["cli.commands.export", "export.networks"],
    "report/test_write.py": [
        "report.assessment",
        "report.page",
        "report.fit_sections",
        "report.probability_plots",
        "report.sections",
    ],
    "serving/test_server.py": [
        "cli.commands.serve",
        "serving.metrics",
        "serving.model",
        "serving.open_inference",
        "serving.openapi",
        "serving.rows",
        "serving.run",
    ],
    "inference/test_numpy_network.py": ["inference.row_products"],
    "streaming/test_streaming.py": ["fitting.streamed.stream_fit", "streaming.tally"],
    "tables/csv/test_reader.py": ["tables.csv.records"],
    "tables/test_cells.py": ["tables.cell_format", "tables.spellings.number_marks"],
    "tables/test_frames.py": [
        "tables.libraries.arrays",
        "tables.libraries.arrow_columns",
        "tables.libraries.pandas_columns",
    ],
    "tables/test_dtypes.py": ["tables.spellings.near_misses"],
    "tables/test_reading.py": [
        "tables.formats.checks",
        "tables.formats.excel",
        "tables.formats.json_lines",
        "tables.given_types",
    ],
    "training/engine/test_stacked_members.py": ["training.engine.tensor_layout"],
    "cli/test_early_errors.py": ["workflows.requests.settings"],
    "workflows/test_compare.py": [
        "cli.commands.compare",
        "workflows.ranking",
        "workflows.run_settings",
    ],
    "workflows/test_distill.py": ["cli.commands.distill"],
}


def test_every_module_has_its_tests() -> None:
    tests = ROOT / "tests"
    named = {name for path in tests.rglob("*.py") for name in _imported_by_test(path)}
    listed = {name for names in TESTED_IN.values() for name in names}
    without = set()
    for path in modules():
        module = module_name(path).removeprefix(f"{PACKAGE}.")
        own = tests.joinpath(path.relative_to(FOLDER)).with_name(f"test_{path.name}")
        if path.name != "__init__.py" and not own.exists() and f"{PACKAGE}.{module}" not in named:
            without.add(module)
    assert sorted(without - listed) == []
    known = {module_name(path).removeprefix(f"{PACKAGE}.") for path in modules()}
    assert sorted(listed - known) == []
    assert [name for name in TESTED_IN if not (tests / name).exists()] == []


def _imported_by_test(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for name in _names(node, module_name(path))}
