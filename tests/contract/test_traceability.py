"""Every id of the contract has a test, and the committed table says which."""

from pathlib import Path

import pytest

from tests.traceability import (
    SUBJECTS,
    TABLE,
    contract_ids,
    ids_in,
    marked_tests,
    render,
)


def test_every_id_has_a_test() -> None:
    shown = {marked.contract_id for marked in marked_tests()}
    assert [name for name in contract_ids() if name not in shown] == []


def test_every_marker_names_an_id_of_the_contract() -> None:
    known = set(contract_ids())
    assert [marked for marked in marked_tests() if marked.contract_id not in known] == []


def test_every_id_has_a_subject() -> None:
    assert {name.replace("AC-", "REQ-") for name in contract_ids()} == set(SUBJECTS)


def test_committed_table_is_what_the_markers_say() -> None:
    fresh = render(contract_ids(), list(marked_tests()))
    assert TABLE.read_text(encoding="utf-8") == fresh, "run `python -m tests.traceability`"


@pytest.mark.shared_data
def test_ids_are_those_of_the_contract(data_dir: Path) -> None:
    contract = data_dir.parent / "spec" / "models.spec.md"
    if not contract.is_file():
        pytest.skip(f"no contract at {contract}")
    ids = ids_in(contract.read_text(encoding="utf-8"))
    assert sorted(ids) == sorted(contract_ids())


def test_a_marker_that_the_reader_would_miss_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\npytestmark = pytest.mark.contract('REQ-M01')\ndef test_it(): ...\n"
    )
    with pytest.raises(ValueError, match="must stand on a test function"):
        list(marked_tests(tmp_path))


def test_render_shows_an_id_without_a_test_as_an_empty_row() -> None:
    assert "| REQ-M01 | `MLP`: constructor |  |" in render(["REQ-M01"], [])
