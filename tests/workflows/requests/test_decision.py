"""What `--decision` and files of costs may say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tabwright.workflows.requests.decision import DecisionRequest, read_costs

LABELS = np.array(["no", "yes"])


@pytest.mark.parametrize(
    ("text", "goal", "value"),
    [
        ("f1", "f1", None),
        ("balanced_accuracy", "balanced_accuracy", None),
        ("recall=0.9", "recall", 0.9),
        ("precision=.5", "precision", 0.5),
    ],
)
def test_words_become_aims(text: str, goal: str, value: float | None) -> None:
    aim = DecisionRequest.parse(text).aim(LABELS)
    assert (aim.goal, aim.value, aim.positive) == (goal, value, 1)
    assert DecisionRequest.parse(text, "no").aim(LABELS).positive == 0


@pytest.mark.parametrize(
    "text",
    ["", "F1", "mcc", "f1=", "f1=0.5", "recall", "recall=", "recall=high", "costs", "costs="],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a decision must be f1, .*; got"):
        DecisionRequest.parse(text)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="positive label must be one of no, yes; got 'maybe'"):
        DecisionRequest.parse("f1", "maybe").aim(LABELS)
    with pytest.raises(ValueError, match="is for two classes; got 3"):
        DecisionRequest.parse("f1").aim(np.array([1, 2, 3]))
    assert DecisionRequest.parse("balanced_accuracy").aim(np.array([1, 2, 3])).goal


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("costs.csv", "true,no,yes\nno,0,1\nyes,9,0\n"),
        ("costs.csv", "\ufeff, yes , no\r\n\r\nyes,0,9\r\nno,1,0.0\r\n"),
        ("costs.tsv", "predicted\tyes\tno\nno\t1\t0\nyes\t0\t9\n"),
    ],
)
def test_costs_in_any_order(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    aim = DecisionRequest.parse(f"costs={path}").aim(LABELS)
    assert aim.costs is not None
    assert aim.costs.tolist() == [[0.0, 1.0], [9.0, 0.0]]


def test_costs_of_numbers_and_booleans(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text("true,0,1\n0,0,2\n1,3,0\n")
    assert read_costs(path).matrix(["0", "1"]).tolist() == [[0, 2], [3, 0]]
    path.write_text("true,False,True\nFalse,0,2\nTrue,3,0\n")
    aim = DecisionRequest.parse(f"costs={path}").aim(np.array([False, True]))
    assert aim.costs is not None
    assert aim.costs.tolist() == [[0, 2], [3, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a line of labels and then a line of costs"),
        ("true,no,yes\n", "got 1 lines"),
        ("true,no\nno,0\nyes,9\n", "the first line must name each label .*'yes' is missing"),
        ("true,no,yes\nno,0,1\n", "the first column must name each .*'yes' is missing"),
        ("true,no,yes,maybe\nno,0,1,1\nyes,9,0,1\n", "'maybe' is no label"),
        ("true,no,yes\nno,0,1\nyes,9,0\nyes,9,0\n", "the first column .* one comes twice"),
        ("true,no,yes\nno,0\nyes,9,0\n", "line 2: .* 2 costs; got 1"),
        ("true,no,yes\nno,0,1\nyes,nine,0\n", "line 3: a cost must be a finite .*'nine'"),
        ("true,no,yes\nno,0,1\nyes,inf,0\n", "got 'inf'"),
        ("true,no,yes\nno,0,1\nyes,,0\n", "line 3: a cost must be a finite number; got ''"),
    ],
)
def test_bad_costs_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_costs(path).matrix(["no", "yes"])


def test_no_file_of_costs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        DecisionRequest.parse(f"costs={tmp_path / 'none.csv'}")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be a CSV file of costs, in UTF-8"):
        DecisionRequest.parse(f"costs={tmp_path / 'binary.csv'}")


def test_the_file_in_the_documentation_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
    block = text.split("```csv\n")[1].split("```")[0]
    (tmp_path / "costs.csv").write_text(block)
    assert read_costs(tmp_path / "costs.csv").matrix(["no", "yes"]).tolist() == [[0, 1], [9, 0]]
