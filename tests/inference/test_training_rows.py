"""What is said of cells unlike those of training."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier
from tabwright.encoding.encoder import TableEncoder
from tabwright.inference.training_rows import UnfamiliarCells
from tabwright.settings import Quality


@pytest.fixture(scope="module")
def encoder() -> TableEncoder:
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "height": generator.normal(1.7, 0.1, 300),
            "count": generator.integers(10, 20, 300),
            "city": generator.choice(["Rome", "Oslo", "Bern"], 300),
            "flag": generator.integers(0, 2, 300).astype(bool),
        }
    )
    model = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, random_state=0)
    return model.fit(frame, frame["height"] > 1.7).model_.encoder


def _said(encoder: TableEncoder, *frames: pl.DataFrame) -> list[str]:
    cells = UnfamiliarCells(encoder)
    for frame in frames:
        cells.add(frame)
    return cells.sentences()


def _rows(n_rows: int = 50, **columns: object) -> pl.DataFrame:
    usual = {"height": 1.7, "count": 15, "city": "Rome", "flag": True}
    return pl.DataFrame({name: [cell] * n_rows for name, cell in (usual | columns).items()})


def test_usual_rows_need_no_word(encoder: TableEncoder) -> None:
    assert _said(encoder, _rows()) == []
    assert _said(encoder, _rows(height=None, city=None, flag=None)) == []


def test_a_sentence_a_column_over_all_batches(encoder: TableEncoder) -> None:
    unknown = _rows(city="Roma")
    assert _said(encoder, unknown, unknown) == [
        "city: all 100 cells are of levels that training had in few rows or not at all, e.g. "
        "'Roma'; they count as unknown"
    ]
    (height, city) = _said(encoder, unknown, _rows(n_rows=1, height=17.0))
    assert height == "height: 1 of 51 cells is far past the range of training, e.g. 17.0"
    assert city.startswith("city: 50 of 51 cells are of levels")
    # A few unknown levels are everyday.
    assert _said(encoder, _rows(), _rows(n_rows=1, city="Roma")) == []


@pytest.mark.parametrize("quality", ["fast", "balanced"])
def test_columns_of_rare_levels_bring_new_ones_and_need_no_word(quality: Quality) -> None:
    generator = np.random.default_rng(2)
    ticket = [f"t{k}" for k in generator.zipf(1.3, 900) % 10_000]
    frame = pl.DataFrame(
        {
            "ticket": ticket,
            "city": generator.choice(["Rome", "Oslo", "Bern"], 900),
            "x": generator.normal(size=900),
        }
    )
    training, other = frame[:600], frame[600:]
    fit = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, quality=quality, n_folds=1)
    model = fit.fit(training, training["x"] > 0).model_

    def said(rows: pl.DataFrame) -> list[str]:
        cells = UnfamiliarCells(model.encoder, card=model.card)
        cells.add(rows)
        return [sentence.split(":")[0] for sentence in cells.sentences()]

    # Without the card, the encoder alone cannot tell.
    assert [text.split(":")[0] for text in _said(model.encoder, other)] == ["ticket"]
    assert said(other) == []
    assert said(other[:1]) == []
    assert said(other.with_columns(city=pl.lit("Roma"))) == ["city"]
    assert said(other.with_columns(ticket="new" + pl.col("ticket"))) == ["ticket"]
    # Of a column of common levels, one cell is enough.
    assert said(other[:1].with_columns(city=pl.lit("Roma"))) == ["city"]
    for odd in ({"columns": 3}, {"columns": [{"name": "ticket"}], "n_training_rows": 9}):
        cells = UnfamiliarCells(model.encoder, card=odd)
        cells.add(other)
        assert len(cells.sentences()) == 1


def test_an_example_has_the_digits_of_the_cell(encoder: TableEncoder) -> None:
    assert 66.0 * 2.2 != 145.2
    (height,) = _said(encoder, _rows(height=66.0 * 2.2))
    assert "e.g. 145.2;" in height


def test_other_units_are_asked_about(encoder: TableEncoder) -> None:
    (said,) = _said(encoder, _rows(height=170.0))
    assert said == (
        "height: all 50 cells are far past the range of training, e.g. 170.0; are these the same "
        "units?"
    )
    (said,) = _said(encoder, _rows(count=24))
    assert said == (
        "count: all 50 cells are outside the range of training; are these the same units?"
    )


@pytest.fixture(scope="module", params=["standard", "quantile_ple"])
def amounts(request: pytest.FixtureRequest) -> tuple[TableEncoder, pl.DataFrame]:
    """An encoder, and rows of its own distribution that it was not fitted to."""
    generator = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "length": generator.uniform(0, 300, 1_200),
            "income": generator.gamma(2.0, 20_000, 1_200),
            "change": generator.normal(50, 40, 1_200),
            "gain": np.where(generator.random(1_200) < 0.45, 0, generator.gamma(2, 500, 1_200)),
            "rare": np.where(generator.random(1_200) < 0.95, 0, generator.gamma(2, 500, 1_200)),
            "heavy": generator.lognormal(0, 4, 1_200),
        }
    )
    model = TabularClassifier(
        max_epochs=1,
        n_members=1,
        hidden_dim=8,
        random_state=0,
        quality="fast",
        numeric_encoding=request.param,
    )
    training = frame[:800]
    return model.fit(training, training["income"] > 30_000).model_.encoder, frame[800:]


@pytest.mark.parametrize("factor", [100, 1_000])
@pytest.mark.parametrize("column", ["length", "income", "change", "gain"])
def test_units_that_make_values_small_are_asked_about(
    amounts: tuple[TableEncoder, pl.DataFrame], column: str, factor: int
) -> None:
    encoder, rows = amounts
    small = rows.with_columns(pl.col(column) / factor)
    if encoder.plan_.numbers.encoding == "standard" and column == "gain":
        # Its deviation is larger than its mean: by these, so small values are not unusual.
        assert _said(encoder, small) == []
        return
    (said,) = _said(encoder, small[:200], small[200:])
    assert said.startswith(f"{column}: ")
    if np.mean(small[column].to_numpy() > rows[column].to_numpy().min()) > 0.5:
        assert " less than a tenth of the m" in said
    assert said.endswith("; are these the same units?")


def test_rows_of_the_same_distribution_are_not_small(
    amounts: tuple[TableEncoder, pl.DataFrame],
) -> None:
    encoder, rows = amounts
    generator = np.random.default_rng(0)
    for n_rows in [1, 5, 20, 30, 50, 100, 400] * 20:
        some = rows[generator.choice(len(rows), n_rows, replace=False)]
        said = _said(encoder, some)
        assert not [sentence for sentence in said if "less than a tenth" in sentence], said
    zeros = rows.with_columns(gain=0.0, rare=0.0)
    assert _said(encoder, zeros) == []
