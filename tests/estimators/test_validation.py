"""`validation=`: splitters of scikit-learn and lists of row numbers decide which rows validate."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    ShuffleSplit,
    TimeSeriesSplit,
)

from tabwright import TabularClassifier, TabularRegressor, load_model
from tabwright.errors import TableError
from tabwright.tables.labelled import LabelledRows

SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 3,
    "batch_size": 32,
    "random_state": 0,
}


@pytest.fixture
def rows() -> tuple[pl.DataFrame, np.ndarray]:
    generator = np.random.default_rng(0)
    size = generator.normal(size=120)
    frame = pl.DataFrame({"row": np.arange(120.0) + 0.5, "size": size})
    return frame, np.where(size + generator.normal(size=120) > 0, "yes", "no")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """The rows that trained and those that validated, fit by fit."""
    from tabwright.fitting import recipe as module

    seen: list[tuple[list[int], list[int]]] = []
    fit = module.Recipe.fit

    def watching(self: Any, rows: LabelledRows, held_out: Any, *rest: Any) -> Any:
        held = [] if held_out is None else held_out.rows.frame["row"].to_list()
        if held_out is not None and held_out.spare is not None:
            held += held_out.spare.frame["row"].to_list()
        seen.append(([int(v) for v in rows.frame["row"]], sorted(int(v) for v in held)))
        return fit(self, rows, held_out, *rest)

    monkeypatch.setattr(module.Recipe, "fit", watching)
    return seen


Parts = list[tuple[list[int], list[int]]]


@pytest.mark.parametrize(
    "splitter",
    [KFold(4), ShuffleSplit(2, random_state=3), PredefinedSplit(np.repeat([-1, 0, 1], 40))],
    ids=lambda splitter: type(splitter).__name__,
)
@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_the_last_split_validates(
    rows: tuple[pl.DataFrame, np.ndarray], parts: Parts, splitter: Any, kind: Any
) -> None:
    X, y = rows
    target = y if kind is TabularClassifier else X["size"].to_numpy()
    model = kind(**SMALL, validation=splitter).fit(X, target)
    train, test = list(splitter.split(X, y))[-1]
    assert parts == [(sorted(train), sorted(test))]
    assert model.model_.card["n_validation_rows"] == len(parts[0][1])
    said = model.model_.card["validation"]
    assert said.startswith(f"{type(splitter).__name__}(")
    assert said.endswith(f"the last of {splitter.get_n_splits()} splits")


def test_the_latest_rows_validate_in_time(
    rows: tuple[pl.DataFrame, np.ndarray], parts: Parts
) -> None:
    X, y = rows
    TabularClassifier(**SMALL, validation=TimeSeriesSplit(5)).fit(X, y)
    assert parts == [(list(range(100)), list(range(100, 120)))]


def test_groups_reach_the_splitter(rows: tuple[pl.DataFrame, np.ndarray], parts: Parts) -> None:
    X, y = rows
    groups = np.arange(120) % 7
    TabularClassifier(**SMALL, validation=GroupKFold(3)).fit(X, y, groups=groups)
    train, test = parts[0]
    assert not set(groups[train]) & set(groups[test])
    assert len(train) + len(test) == 120


def test_the_splitter_sees_the_table_and_the_labels(
    rows: tuple[pl.DataFrame, np.ndarray], parts: Parts
) -> None:
    X, y = rows
    seen: list[Any] = []

    class Own:
        def split(self, X: Any, y: Any, groups: Any) -> Any:
            seen.append((X, y.tolist(), groups))
            yield range(60), range(60, 90)

    told: list[str] = []

    from tabwright import Callback

    class Told(Callback):
        def on_message(self, message: str) -> None:
            told.append(message)

    TabularClassifier(**SMALL, validation=Own()).fit(X, y, callbacks=[Told()])
    assert seen[0][0] is X
    assert seen[0][1:] == (y.tolist(), None)
    assert parts == [(list(range(60)), list(range(60, 90)))]
    assert any("30 rows are in neither part" in text for text in told)


def test_rows_of_weight_zero_leave_the_splitters_rows(
    rows: tuple[pl.DataFrame, np.ndarray], parts: Parts
) -> None:
    X, y = rows
    weight = np.ones(120)
    weight[[0, 119]] = 0
    folds = PredefinedSplit(np.repeat([-1, 0], 60))
    TabularClassifier(**SMALL, validation=folds).fit(X, y, sample_weight=weight)
    assert parts == [(list(range(1, 60)), list(range(60, 119)))]


def test_refit_takes_the_rows_of_the_split(
    rows: tuple[pl.DataFrame, np.ndarray], parts: Parts
) -> None:
    X, y = rows
    TabularClassifier(**SMALL, refit=True, validation=[(range(50), range(50, 80))]).fit(X, y)
    assert parts[0] == (list(range(50)), list(range(50, 80)))
    assert sorted(parts[1][0]) == list(range(80))


@pytest.mark.parametrize(
    ("validation", "fit", "said"),
    [
        (3, {}, "validation must be a splitter"),
        ([(range(60), range(59, 70))], {}, "a row must either train or test"),
        ([(range(60), [120])], {}, "must be from 0 to 119; got 120"),
        ([(range(60), [])], {}, "must leave rows to train and rows to test"),
        (GroupKFold(2), {}, "GroupKFold cannot split these 120 rows"),
        (KFold(2), {"time": np.arange(120)}, "so would time; .* put the rows in order"),
    ],
)
def test_bad_splits_are_refused_before_any_work(
    rows: tuple[pl.DataFrame, np.ndarray],
    parts: Parts,
    validation: object,
    fit: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ValueError, match=said):
        TabularClassifier(**SMALL, validation=validation).fit(*rows, **fit)
    assert parts == []


def test_one_word_on_which_rows_validate(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    with pytest.raises(ValueError, match="so would eval_set; give one of the two"):
        TabularClassifier(**SMALL, validation=KFold(2)).fit(X, y, eval_set=(X, y))
    with pytest.raises(ValueError, match="so would validation_fraction; give one of the two"):
        TabularClassifier(**SMALL, validation=KFold(2), validation_fraction=0.2).fit(X, y)


def test_a_class_without_training_rows_is_refused(
    rows: tuple[pl.DataFrame, np.ndarray], parts: Parts
) -> None:
    X, y = rows
    split = [(np.flatnonzero(y == "no"), np.flatnonzero(y == "yes"))]
    with pytest.raises(TableError, match="class yes has none in a split"):
        TabularClassifier(**SMALL, validation=split).fit(X, y)
    assert parts == []


def test_residuals_of_intervals_are_of_the_latest_rows(
    rows: tuple[pl.DataFrame, np.ndarray],
) -> None:
    X, _ = rows
    model = TabularRegressor(**SMALL, validation=TimeSeriesSplit(2)).fit(X, X["size"])
    by_time = TabularRegressor(**SMALL, validation_fraction=1 / 3)
    by_time.fit(X, X["size"], time=np.arange(120))
    for key in ("intervals", "n_interval_rows", "n_validation_rows"):
        assert model.model_.card[key] == by_time.model_.card[key]
    assert model.model_.card["n_interval_rows"] > 0
    assert (model.predict_interval(X) == by_time.predict_interval(X)).all()


def test_clones_pickles_searches_and_files(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    X, y = rows
    model = TabularClassifier(**SMALL, validation=TimeSeriesSplit(4))
    assert repr(clone(model).get_params()["validation"]) == repr(TimeSeriesSplit(4))
    search = GridSearchCV(model, {"validation": [KFold(3), None]}, cv=2).fit(X.to_numpy(), y)
    assert len(search.cv_results_["params"]) == 2
    model.fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.model_.card["validation"] == model.model_.card["validation"]


def test_streamed_tables_have_no_splitter(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    X, y = rows
    X.with_columns(pl.Series("y", y)).write_csv(tmp_path / "t.csv")
    model = TabularClassifier(**SMALL, validation=KFold(3))
    with pytest.raises(ValueError, match="a splitter needs the rows in memory"):
        model.fit_file(tmp_path / "t.csv", "y", memory=1)
    model.fit_file(tmp_path / "t.csv", "y")
    assert model.model_.card["n_validation_rows"] == 40


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_cross_validated_fits_take_the_folds_of_a_splitter(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    from tabwright.fitting import recipe as module

    X, y = rows
    seen: list[Any] = []
    fit = module.Recipe.fit_in_folds

    def watching(self: Any, rows: Any, folds: Any, *rest: Any) -> Any:
        seen.append((rows.frame["row"].to_numpy(), folds))
        return fit(self, rows, folds, *rest)

    monkeypatch.setattr(module.Recipe, "fit_in_folds", watching)
    weight = np.ones(120)
    weight[5] = 0
    target = y if kind is TabularClassifier else X["size"].to_numpy()
    model = kind(**SMALL, n_folds=3, validation=KFold(3))
    model.fit(X, target, sample_weight=weight)
    ((numbers, folds),) = seen
    assert (folds == numbers.astype(int) // 40).all()
    assert len(numbers) == 119
    assert model.settings_.n_folds == 3
    assert len(model.members_) == 3 * SMALL["n_members"]
    # Splits that do not train on all other rows are no folds.
    with pytest.raises(ValueError, match="n_folds=2 needs a validation that tests a row once"):
        kind(**SMALL, n_folds=2, validation=TimeSeriesSplit(3)).fit(X, target)
    assert len(seen) == 1


def test_folds_are_those_of_the_splitter(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    small = {**SMALL, "quality": "fast"}
    model = TabularClassifier(**small, n_folds=3, validation=KFold(3)).fit(X, y)
    assert model.model_.card["folds"]["n_folds"] == 3
    assert model.model_.card["validation"].endswith("): 3 folds")
    with pytest.raises(ValueError, match="got n_folds=4 and 3 splits; give n_folds=3"):
        TabularClassifier(**small, n_folds=4, validation=KFold(3)).fit(X, y)


@pytest.mark.parametrize(
    ("error", "said"), [(KeyError("site"), "KeyError: 'site'"), (ValueError("no"), "no")]
)
def test_a_splitter_that_fails_is_named(
    rows: tuple[pl.DataFrame, np.ndarray], error: Exception, said: str
) -> None:
    X, y = rows

    class Own:
        def split(self, X: Any, y: Any, groups: Any) -> Any:
            raise error

    with pytest.raises(ValueError, match=f"^Own cannot split these 120 rows: {said}$") as caught:
        TabularClassifier(**SMALL, validation=Own()).fit(X, y)
    assert caught.value.__cause__ is error


def test_a_mask_is_told_how_to_be_row_numbers(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    late = np.arange(120) >= 90
    with pytest.raises(ValueError, match=r"got dtype bool; give np\.flatnonzero of the mask"):
        TabularClassifier(**SMALL, validation=[(~late, late)]).fit(X, y)
