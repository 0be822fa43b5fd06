"""Which tests show which id of the models contract.

`python -m tests.traceability` rewrites docs/traceability.md from the `contract` markers of the
test functions; `test_traceability.py` holds the committed file to them. The markers are read from
the source, so that nothing needs to be imported or collected.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "traceability.md"
IDS = ROOT / "tests" / "contract_ids.txt"

# An acceptance criterion AC-Mxx has the subject of its requirement REQ-Mxx.
SUBJECTS = {
    "REQ-M01": "`MLP`: constructor",
    "REQ-M02": "`MLP`: layers and their order",
    "REQ-M03": "`MLP`: shape of the output",
    "REQ-M04": "`LinearBaseline`: constructor",
    "REQ-M05": "`LinearBaseline`: one linear layer",
    "REQ-M06": "`LinearBaseline`: shape of the output",
    "REQ-M07": "`ResidualBlock`: constructor",
    "REQ-M08": "`ResidualBlock`: layers and their order",
    "REQ-M09": "`ResidualBlock`: shape of the output",
    "REQ-M10": "`TabResNet`: constructor",
    "REQ-M11": "`TabResNet`: layers and their order",
    "REQ-M12": "`TabResNet`: shape of the output",
    "REQ-M13": "`build_model`: `LinearBaseline` for the linear mode",
    "REQ-M14": "`build_model`: `TabResNet` for its mode",
    "REQ-M15": "`build_model`: `MLP` for the other four modes",
    "REQ-M16": "`compute_loss`: the criterion of one forward pass",
    "REQ-M17": "`compute_class_weights`: shape and device",
    "REQ-M18": "`compute_class_weights`: classes without a row",
    "REQ-M19": "`compute_class_weights`: the formula",
    "REQ-M20": "`model_hidden_dim`: the default",
    "REQ-M21": "`model_hidden_dim`: by architecture",
    "REQ-M22": "`model_num_hidden_layers`: by architecture",
    "REQ-M23": "`model_dropout`: none in a `LinearBaseline`",
    "REQ-M24": "`model_dropout`: the first dropout layer",
    "REQ-M25": "`model_training_mode`: by architecture",
    "INV-M01": "every output is 2-D",
    "INV-M02": "`build_model` takes every training mode",
    "INV-M03": "introspection is deterministic",
    "EC-M01": "no hidden layers asked for",
    "EC-M02": "no dropout asked for",
    "EC-M03": "introspection of an unknown module",
}


class Marked(NamedTuple):
    contract_id: str
    file: str
    test: str


def contract_ids() -> list[str]:
    """The ids of the contract, in its order."""
    return IDS.read_text(encoding="utf-8").split()


def ids_in(contract: str) -> list[str]:
    """The ids that the text of the contract defines."""
    return re.findall(r"^- \*\*((?:REQ|AC|INV|EC)-M\d+)\b", contract, flags=re.MULTILINE)


def marked_tests(folder: Path = ROOT / "tests") -> Iterator[Marked]:
    """Every id that a `contract` marker in the folder names, with the test that carries it.

    Raises
    ------
    ValueError
        If the marker stands anywhere but on a test function, or holds anything but literals: this
        reader would miss such ids.
    """
    for path in sorted(folder.glob("**/test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        uses = {id(node) for node in ast.walk(tree) if _is_contract(node)}
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
                continue
            for call in function.decorator_list:
                if not (isinstance(call, ast.Call) and _is_contract(call.func)):
                    continue
                uses.discard(id(call.func))
                for argument in call.args:
                    contract_id = ast.literal_eval(argument)
                    yield Marked(contract_id, path.relative_to(folder).as_posix(), function.name)
        if uses:
            raise ValueError(f"{path.name}: the contract marker must stand on a test function")


def _is_contract(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark.contract"


def render(ids: list[str], marked: list[Marked]) -> str:
    """The text of docs/traceability.md."""
    lines = [
        "# Traceability",
        "",
        "Each id of the models contract and the tests that show it, written by "
        "`python -m tests.traceability` from the tests' `contract` markers. "
        "A missing test or a stale table fails the test run.",
        "",
        "| id | subject | tests |",
        "|---|---|---|",
    ]
    for contract_id in ids:
        subject = SUBJECTS.get(contract_id.replace("AC-", "REQ-"), "")
        tests = ", ".join(
            f"[`{test}`](../tests/{file})" for name, file, test in marked if name == contract_id
        )
        lines.append(f"| {contract_id} | {subject} | {tests} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    TABLE.write_text(render(contract_ids(), list(marked_tests())), encoding="utf-8")
    print(f"wrote {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
