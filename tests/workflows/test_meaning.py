"""What a cell means is decided in training: never by what else is in the file at hand."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright import TableError
from tabwright.export.inputs import graph_array, graph_inputs
from tabwright.export.onnx import export_onnx
from tabwright.fitting.fit_table import fit_table
from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings
from tabwright.tables import labels_to_codes, read_described
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows
from tabwright.workflows.evaluate import score_table
from tabwright.workflows.predict import iter_predictions

N_ROWS = 300
SPELLINGS = {
    "dependents": ["none", "1", "2", "3+", "", "NA", "01", "1.0", " 1 ", "-"],
    "size": ["0.1", "1", "1e3", "", "none", "-", " 2 ", "+5", "NaN", "(5)", "5-"],
    "day": ["2024-01-31", "2024-01-31T05:00:00Z", "2024/02/01", "", "NA"],
    "open": ["true", "FALSE", "1", "0", ""],
    "price": ["0,5", "1.234,5", "-2,25", "3", "1.234", "n/d", "", "NA", "2,5 €"],
    "flow": ["1", "2.5", "#NULL!", "<0.1", ">7", "< LOD", "-", ""],
    "mask": ["0x1F", "0Xff", "31", "", "NA"],
    "fee": ["7 kr", "1,250 kr", "\u20137", "9", "", "\u200b3"],
    "seen": ["2024-01-31", "unknown", "0000-00-00", "", "NA"],
    "worth": ["£436k", "£1.2m", "1.2M", "950", "-", "", "(£5k)"],
    "mass": ["5kg", "7.5 kg", "7", "unknown", "", "1,250 KG"],
    "due": ["01/02/2020", "31/12/2021", "2020-02-01", "", "1/2/2020 5:00 PM"],
    "stamp": ["20240131", "2024-01-31", "20231201", "", "NA"],
    "opens": ["9:30", "12:05 PM", "23:59:30", "24:00", "", "3600"],
    "place": ["1st", "22nd", "113th", "7", ""],
    "share": ["1/4", "3 1/2", "2½", "-1 3/4", "5", ""],
    "north": ["48.5°N", "3.25°S", "12°30'N", ""],
    "height": ["5'11\"", "6' 2\"", "70", ""],
    "lasts": ["1h 30m", "45 min", "2 days 01:02:03", "90", ""],
    "week": ["2024-W05", "2024Q3", "Jan 2024", "2024年1月5日", "05/Jan/2024", ""],
    "reading": ["5.25D+01", "1.2×10^3", "１２", "١٢", "1e2", "1_000", ""],
    "share_of": ["5 %", "７％", "12%", ""],
    "billed": ["12/31/19", "12/31/2019", "2019-12-31", "1/2/70", ""],
    "ran": ["PT5M", "P1DT2H", "-PT1.5S", "1h 30m", "90", ""],
    "balance": ["7.50 CR", "1,234.50 DR", "3 cr", "9", "", "NA"],
    "version": ["1.1", "1.10", "1.2.0", " 1.10 ", "9", "", "NA"],
}

SPELT = {
    "worth": "magnitude",
    "mass": "kg",
    "due": "day_first",
    "stamp": "digits",
    "opens": "clock",
    "place": "ordinal",
    "share": "fraction",
    "north": "degrees",
    "height": "feet",
    "lasts": "duration",
    "week": None,
    "reading": None,
    "share_of": None,
    "billed": "month_first",
    "ran": "duration",
    "balance": "credit",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    days = np.datetime64("2024-01-01") + rng.integers(0, 300, N_ROWS)
    pl.DataFrame(
        {
            "dependents": rng.choice(["none", "1", "2", "3+"], N_ROWS),
            "size": rng.normal(size=N_ROWS).round(3),
            "day": days.astype(str).tolist(),
            "open": rng.choice(["true", "false"], N_ROWS),
            "price": [
                "n/d" if k % 17 == 0 else f"{value:.2f}".replace(".", ",")
                for k, value in enumerate(rng.normal(3, 1, N_ROWS))
            ],
            "flow": [
                ["#NULL!", "<0.1"][k // 10 % 2] if k % 10 == 0 else f"{value:.2f}"
                for k, value in enumerate(rng.normal(3, 1, N_ROWS))
            ],
            "mask": [hex(value) for value in rng.integers(0, 999, N_ROWS)],
            "fee": [f"{value:,} kr" for value in rng.integers(0, 9999, N_ROWS)],
            "seen": [
                ["unknown", "0000-00-00"][k // 10 % 2] if k % 10 == 0 else own
                for k, own in enumerate(days.astype(str).tolist())
            ],
            "worth": [f"£{k * 37 % 900}{'km'[k % 2]}" for k in range(N_ROWS)],
            "mass": ["unknown" if k % 19 == 0 else f"{k * 7 % 90}kg" for k in range(N_ROWS)],
            "due": [f"{k % 28 + 1:02}/{k % 12 + 1:02}/202{k % 4}" for k in range(N_ROWS)],
            "stamp": [day.replace("-", "") for day in days.astype(str).tolist()],
            "opens": [f"{k % 24}:{k * 7 % 60:02}" for k in range(N_ROWS)],
            "place": [f"{k}th" for k in rng.integers(4, 20, N_ROWS)],
            "share": [f"{k % 40} {k % 3 + 1}/4" for k in range(N_ROWS)],
            "north": [f"{k * 7 % 90}.{k % 10}°{'NS'[k % 2]}" for k in range(N_ROWS)],
            "height": [f"{k % 3 + 4}'{k % 12}\"" for k in range(N_ROWS)],
            "lasts": [f"{k % 9 + 1}h {k * 7 % 60}m" for k in range(N_ROWS)],
            "week": [f"2024-W{k % 52 + 1:02}" for k in range(N_ROWS)],
            "reading": [f"{k * 7 % 90}.25D-0{k % 9}" for k in range(N_ROWS)],
            "share_of": [f"{k * 7 % 90} %" for k in range(N_ROWS)],
            "billed": [f"{k % 12 + 1}/{k % 28 + 1}/{k % 8 + 10}" for k in range(N_ROWS)],
            "ran": [f"PT{k * 7 % 60}M{k % 9}S" for k in range(N_ROWS)],
            "balance": [f"{k * 7 % 90}.50 {['CR', 'DR'][k % 2]}" for k in range(N_ROWS)],
            "version": rng.choice(["1.1", "1.10", "1.2.0"], N_ROWS),
        }
    ).with_columns(y=pl.Series(np.where(np.arange(N_ROWS) % 2, "yes", "no"))).write_csv(path)
    return path


@pytest.fixture(scope="module")
def in_memory(table: Path) -> FittedModel:
    found = read_described(table)
    rows = LabelledRows(found.frame.drop("y"), np.arange(N_ROWS) % 2, formats=found.formats)
    settings = FitSettings(task="classification", max_epochs=2, n_members=1, hidden_dim=8)
    return fit_table(rows, settings, classes=np.array(["no", "yes"]))


@pytest.fixture(scope="module")
def streamed(table: Path) -> FittedModel:
    found = fit_files(
        table,
        ColumnUses("y"),
        lambda task: FitSettings(task=task, max_epochs=2, n_members=1, hidden_dim=8),
    )
    assert found is not None
    return found


@pytest.fixture(scope="module", params=["in_memory", "streamed", "saved"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    if request.param != "saved":
        fitted: FittedModel = request.getfixturevalue(request.param)
        return fitted
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    request.getfixturevalue("in_memory").save(path)
    return load_fitted(path)


def test_a_model_knows_the_formats_of_its_columns(model: FittedModel) -> None:
    plan = model.encoder.plan_
    formats = {plan.names[position]: form for position, form in plan.formats.items()}
    assert formats["price"].decimal == ","
    assert {"#NULL!", "<0.1"} <= set(formats["flow"].missing or ())
    assert formats["version"].as_written
    spelt = {name: form.spelling or form.unit for name, form in formats.items()}
    assert {name: spelt.get(name) for name in SPELT} == SPELT
    kinds = dict(zip(plan.names, plan.kinds, strict=True))
    assert {name for name, kind in kinds.items() if kind == "category"} == {"dependents", "version"}
    assert {"1.1", "1.10"} <= set(plan.categories[-1].levels)


@pytest.fixture(scope="module")
def graph(
    in_memory: FittedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FittedModel, Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("graph") / "m.onnx"
    export_onnx(in_memory, path, check_rows=500)
    return in_memory, onnxruntime.InferenceSession(str(path))


def _written(folder: Path, rows: list[dict[str, str]]) -> str:
    path = folder / "rows.csv"
    pl.DataFrame(rows).write_csv(path)
    return str(path)


_ROWS = st.fixed_dictionaries({name: st.sampled_from(own) for name, own in SPELLINGS.items()})


# Cells unlike those of the training rows are told of; that is not what is tested.
@pytest.mark.filterwarnings("ignore:.*(of levels that training had|far past the range):UserWarning")
@given(row=_ROWS, neighbours=st.lists(_ROWS, max_size=4))
def test_a_row_is_the_same_beside_any_neighbours(
    model: FittedModel,
    row: dict[str, str],
    neighbours: list[dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    proba = ["probability_no", "probability_yes"]
    (alone,) = iter_predictions(model, _written(folder, [row]))
    (among,) = iter_predictions(model, _written(folder, [*neighbours, row, *neighbours]))
    wanted = alone[proba].to_numpy()[0]
    place = len(neighbours)
    np.testing.assert_allclose(among[proba].to_numpy()[place], wanted, atol=1e-6)
    predictor = Predictor(model)
    np.testing.assert_allclose(predictor.predict_row(row), wanted, atol=1e-6)
    frame = pl.DataFrame([row, *neighbours], schema=dict.fromkeys(SPELLINGS, pl.String))
    np.testing.assert_allclose(predictor.predict_proba(frame)[0], wanted, atol=1e-6)
    pieces = list(iter_predictions(model, _written(folder, [*neighbours, row]), batch_rows=1))
    np.testing.assert_allclose(pieces[-1][proba].to_numpy()[0], wanted, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*of levels that training had:UserWarning")
def test_words_above_numbers_are_no_line_of_units_for_a_model(
    in_memory: FittedModel, tmp_path: Path
) -> None:
    usual = dict.fromkeys(SPELLINGS, "") | {"dependents": "1", "version": "9"}
    row = usual | {"dependents": "3+", "version": "1.2.0"}
    proba = ["probability_no", "probability_yes"]
    (alone,) = iter_predictions(in_memory, _written(tmp_path, [row]))
    (among,) = iter_predictions(in_memory, _written(tmp_path, [row, usual, usual, usual]))
    np.testing.assert_allclose(among[proba].to_numpy()[0], alone[proba].to_numpy()[0], atol=1e-6)


@given(row=_ROWS)
def test_a_graph_says_the_same_of_a_row(
    graph: tuple[FittedModel, Any], row: dict[str, str]
) -> None:
    model, session = graph
    plan = model.encoder.plan_
    frame = pl.DataFrame([row], schema=dict.fromkeys(SPELLINGS, pl.String))
    cells = {
        own.name: np.asarray(
            graph_array(plan, own, frame[own.column]),
            dtype=object if own.dtype == "string" else own.dtype,
        )
        for own in graph_inputs(plan)
    }
    # Text goes into a graph as it stands, but for more than one space.
    for own in graph_inputs(plan):
        if own.kind == "category":
            cells[own.name] = np.array([[row[own.column]]], dtype=object)
    proba = session.run(None, cells)[1]
    np.testing.assert_allclose(proba[0], Predictor(model).predict_row(row), atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "file"),
    [
        (["1", "2", "3", "A"], ["1", "2"]),
        (["False", "True", "Unknown"], ["True", "False"]),
        (["01", "10", "11"], ["10", "11"]),
        (["1", "3+", "none"], ["none", "1"]),
        ([1, 2, 3], ["1", "2.0"]),
        ([0.0, 1.0], ["0", "1"]),
        ([False, True], ["true", "FALSE"]),
        (["1", "2"], [1, 2]),
        (["1", "2"], [1.0, 2.0]),
        (["false", "true"], [False, True]),
    ],
)
def test_a_label_is_read_as_in_training(classes: list[object], file: list[object]) -> None:
    codes = labels_to_codes(pl.Series(file), np.asarray(classes))
    names = [str(label).lower().removesuffix(".0") for label in classes]
    assert [names[code] for code in codes] == [str(x).lower().removesuffix(".0") for x in file]


def test_a_label_of_no_class_is_refused() -> None:
    with pytest.raises(TableError, match="labels that the training rows have"):
        labels_to_codes(pl.Series(["3"]), np.array([1, 2]))


def test_scores_need_only_some_of_the_labels(model: FittedModel, tmp_path: Path) -> None:
    rows = [{**dict.fromkeys(SPELLINGS, ""), "y": "yes"} for _ in range(5)]
    assert score_table(model, _written(tmp_path, rows), "y").n_rows == 5
