"""Write the golden models of this version: `python -m tests.golden.make [--replace]`.

They go to `tests/golden/VERSION/`: small models of every kind, the rows each was asked about and
what it said. Run it once, when a version that brings a new format is released; what a released
version wrote is never written again. `--replace` is for the time before the release.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from tabwright._version import __version__
from tabwright.calibration.calibrator import Calibrator, CalibratorKind
from tabwright.encoding.interactions import INTERACTION_KINDS, Interaction
from tabwright.fitting.arguments import Aims, Columns
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.tree_ensemble import ObliviousTrees
from tabwright.inference.tree_mix import TreeMix, tree_features
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tests.golden.rows import FOLDER, write_golden

N_ROWS, N_ASKED = 160, 24


def plain_table(n_rows: int = N_ROWS, seed: int = 0) -> pl.DataFrame:
    """Numbers alone."""
    x = np.random.default_rng(seed).normal(size=(n_rows, 3))
    return pl.DataFrame({"a": x[:, 0], "b": np.exp(x[:, 1]), "c": np.round(4 * x[:, 2])})


def mixed_table(n_rows: int = N_ROWS, seed: int = 0) -> pl.DataFrame:
    """Every kind of column, with gaps."""
    draw = np.random.default_rng(seed)

    def gaps(values: Any, dtype: Any = None, share: float = 0.1) -> pl.Series:
        column = pl.Series(values, dtype=dtype)
        return column.set(pl.Series(draw.random(n_rows) < share), None)

    start = np.datetime64("1968-02-20T06:30:00", "us")
    hour = np.timedelta64(3_600_000_000, "us")
    when, day = (start + draw.integers(0, 400_000, n_rows) * hour for _ in range(2))
    kinds = ["red", "größe", "1", "2020-01-01", "true", "-"]
    return pl.DataFrame(
        {
            "size": gaps(draw.normal(size=n_rows) ** 3),
            "count": gaps(draw.integers(0, 50, n_rows)),
            "key": 2**60 + draw.integers(0, 2**20, n_rows),
            "large": np.uint64(2**63) + draw.integers(0, 2**62, n_rows).astype(np.uint64),
            "kind": gaps([kinds[k] for k in draw.integers(0, len(kinds), n_rows)]),
            "many": gaps([f"level {k}" for k in draw.integers(0, 90, n_rows)]),
            "open": gaps(draw.random(n_rows) < 0.5),
            "when": gaps(when),
            "day": gaps(day.astype("datetime64[D]")),
            "constant": ["same"] * n_rows,
        }
    )


def amount_table(n_rows: int = 2_000, seed: int = 0) -> pl.DataFrame:
    """A number whose values each mean something, with gaps."""
    draw = np.random.default_rng(seed)
    amounts = np.cumsum(np.random.default_rng(0).integers(1, 300, 40))
    amount = pl.Series(amounts[draw.integers(0, 40, n_rows)])
    return pl.DataFrame(
        {
            "size": draw.normal(size=n_rows),
            "amount": amount.set(pl.Series(draw.random(n_rows) < 0.1), None),
        }
    )


def asked_amounts() -> pl.DataFrame:
    """New rows, and amounts that no training row had."""
    frame = amount_table(N_ASKED, seed=1)
    odd = pl.Series("amount", [2**62, -(2**62), 0, 1_000, None])
    return frame.with_columns(pl.concat([odd, frame["amount"].slice(len(odd))]))


def coast_table(n_rows: int = 2_500, seed: int = 0) -> pl.DataFrame:
    """Two numbers, with gaps, whose sum and difference have steps."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n_rows, 2)) * [2.0, 5.0] + [-120.0, 37.0]
    gaps = pl.Series(draw.random(n_rows) < 0.05)
    return pl.DataFrame({"east": pl.Series(x[:, 0]).set(gaps, None), "north": x[:, 1]})


def asked_coast() -> pl.DataFrame:
    """New rows, and places far from all training rows."""
    frame = coast_table(N_ASKED, seed=1)
    odd = pl.DataFrame({"east": [1e308, -1e308, -1e300, None], "north": [-1e308, 0.0, 1e9, None]})
    return pl.concat([odd, frame.slice(len(odd))])


def asked_mixed() -> pl.DataFrame:
    """New rows, and cells that no training row had."""
    frame = mixed_table(N_ASKED, seed=1)
    odd: dict[str, list[Any]] = {
        "size": [1e308, -1e308, 0.0, None],
        "count": [2**62, -(2**62), 0, None],
        "key": [0, 2**63 - 1, -(2**63) + 1, None],
        "large": [0, 2**64 - 1, 1, None],
        "kind": ["never seen", " red ", "1.0", None],
        "many": ["", "level 3", "LEVEL 3", None],
        "open": [True, False, None, None],
    }
    columns = [
        pl.concat([pl.Series(odd[name], dtype=frame[name].dtype), frame[name].slice(4)])
        if name in odd
        else frame[name]
        for name in frame.columns
    ]
    return pl.DataFrame(dict(zip(frame.columns, columns, strict=True)))


def written_table(n_rows: int = N_ROWS) -> pl.DataFrame:
    """Text in formats of its own: decimal commas, a marker, levels that are one number."""
    draw = np.random.default_rng(11)
    commas = [f"{value:.2f}".replace(".", ",") for value in draw.normal(3, 1, n_rows)]
    return pl.DataFrame(
        {
            "written": ["n/d" if draw.random() < 0.1 else comma for comma in commas],
            "version": draw.choice(["1.1", "1.10", "1.2.0"], n_rows).tolist(),
            "marked": ["#NULL!" if k % 9 == 0 else str(k) for k in draw.integers(1, 60, n_rows)],
        }
    )


def _score(frame: pl.DataFrame) -> np.ndarray:
    if "a" in frame.columns:
        plain: np.ndarray = frame["a"].to_numpy() + frame["b"].to_numpy() * (
            frame["c"].to_numpy() > 0
        )
        return plain
    if "amount" in frame.columns:
        amount = frame["amount"].fill_null(0).to_numpy()
        by_value: np.ndarray = frame["size"].to_numpy() / 10 + amount % 3
        return by_value
    if "written" in frame.columns:
        level = (frame["version"] == "1.10").to_numpy()
        comma = frame["written"].str.replace(",", ".").cast(pl.Float64, strict=False)
        return comma.fill_null(2.0).to_numpy() + 2.0 * level
    if "east" in frame.columns:
        east = (frame["east"].fill_null(-120.0).to_numpy() + 120.0) / 2.0
        north = (frame["north"].to_numpy() - 37.0) / 5.0
        steps: np.ndarray = np.floor(2 * (east + north)) % 2 + np.floor(2 * (east - north)) % 2
        return steps + np.random.default_rng(9).normal(size=len(frame)) / 5
    red = (frame["kind"] == "red").fill_null(False).to_numpy()
    count = frame["count"].fill_null(25).to_numpy()
    score: np.ndarray = frame["size"].fill_null(0.5).to_numpy() + 2.0 * red + count / 25.0
    return score


def _fit(
    table: Callable[[], pl.DataFrame] = plain_table,
    *,
    classes: list[Any] | np.ndarray | None = None,
    named: bool = True,
    prior: Any = "training",
    **settings: Any,
) -> FittedModel:
    frame = table()
    score = _score(frame)
    sizes = {"hidden_dim": 8, "num_hidden_layers": 2, "n_members": 1, "max_epochs": 6}
    task = "regression" if classes is None else "classification"
    chosen = FitSettings(
        task=task,  # type: ignore[arg-type]
        **{"numeric_encoding": "standard", "device": "cpu", "random_state": 7, **sizes, **settings},
    )
    if classes is None:
        return fit_table(
            LabelledRows(frame, 10.0 * score - 3.0), chosen, columns=Columns(named=named)
        )
    labels = np.asarray(classes)
    cuts = np.quantile(score, np.linspace(0, 1, len(labels) + 1)[1:-1])
    codes = np.searchsorted(cuts, score).astype(np.int64)
    return fit_table(
        LabelledRows(frame, codes),
        chosen,
        classes=labels,
        columns=Columns(named=named, target_name="outcome"),
        aims=Aims(prior=prior),
    )


def _fit_by_value(**settings: Any) -> FittedModel:
    model = _fit(amount_table, numeric_encoding="tree_ple", **settings)
    if not model.encoder.plan_.value_statistics:
        raise AssertionError("the amount must have target statistics")
    return model


def _fit_pairs(n_rows: int, **settings: Any) -> FittedModel:
    # With fewer steps two classes are not learnt, with the sum and the difference or without.
    longer = {"hidden_dim": 16, "max_epochs": 30, "quality": "fast", **settings}
    model = _fit(lambda: coast_table(n_rows), numeric_encoding="tree_ple", **longer)
    if len(model.encoder.plan_.interactions) < 2:
        raise AssertionError("the sum and the difference must be found")
    return model


def _calibrated(kind: CalibratorKind, model: FittedModel, **arrays: Any) -> FittedModel:
    values = {name: np.array(array, dtype=np.float64) for name, array in arrays.items()}
    return replace(model, calibrator=Calibrator(kind, values))


def _decimals() -> pl.DataFrame:
    # Read back as text, which the encoder takes for the same numbers.
    draw = np.random.default_rng(5)
    digits = [Decimal(10**17 + int(k)).scaleb(-2) for k in draw.integers(0, 10**6, N_ROWS)]
    return plain_table().with_columns(pl.Series("digits", digits, dtype=pl.Decimal(30, 2)))


def _fit_formats(**settings: Any) -> FittedModel:
    model = _fit(written_table, **settings)
    if len(model.encoder.plan_.formats) != 3:
        raise AssertionError("the formats must be found")
    return model


INTERACTIONS = tuple(Interaction(kind, 0, 1) for kind in INTERACTION_KINDS)


def _fit_trees(**settings: Any) -> FittedModel:
    model = _fit(mixed_table, quality="best", numeric_encoding="tree_ple", **settings)
    if model.trees is None:
        raise AssertionError("the trees must have weight")
    return model


def _fit_oblivious(interactions: tuple[Interaction, ...] = (), **settings: Any) -> FittedModel:
    """Oblivious trees, the form of CatBoost's, made by hand."""
    model = _fit(mixed_table, numeric_encoding="tree_ple", **settings)
    rng, shape = np.random.default_rng(5), (6, 3)
    rows = model.encoder.transform(mixed_table(1, seed=0))
    n_features = tree_features(model.encoder, rows, interactions).shape[1]
    threshold = rng.normal(size=shape).astype(np.float32)
    threshold[1, 2] = np.inf
    trees = ObliviousTrees(
        kind="by hand",
        n_features=n_features,
        baseline=rng.normal(size=1),
        feature=rng.integers(0, n_features, shape).astype(np.int32),
        threshold=threshold,
        value=rng.normal(size=(shape[0], 2 ** shape[1], 1)),
    )
    return replace(model, trees=TreeMix(0.25, (0.75,), (trees,), interactions))


def cases() -> dict[str, tuple[Callable[[], FittedModel], Callable[[], pl.DataFrame]]]:
    """By name: how a model is fitted, and what it is asked."""

    def asked_plain() -> pl.DataFrame:
        return plain_table(N_ASKED, seed=1)

    def asked_decimals() -> pl.DataFrame:
        return asked_plain().with_columns(
            pl.Series("digits", [f"{10**15 + k}.{k % 10}7" for k in range(N_ASKED)])
        )

    three = np.array(["high", "low", "mid"])
    two = np.array([False, True])
    scaled = {"inverse_temperature": [0.7], "uniform": [0.01], "bias": [0.1, -0.2, 0.3]}
    square = [[1.0, 0.2, -0.1], [0.3, 0.8, 0.0], [-0.2, 0.1, 1.2]]
    steps = {
        "inputs": [0.1, 0.3, 0.9, 0.3, 0.2, 0.4, 0.6, 0.61, 0.8],
        "outputs": [0.05, 0.3, 0.95, 0.4, 0.1, 0.3, 0.4, 0.7, 0.9],
        "lengths": [3.0, 1.0, 5.0],
    }
    plain = {
        "binary-mlp": lambda: _fit(classes=two, n_members=2, calibration="temperature"),
        "binary-logistic": lambda: _calibrated(
            "logistic", _fit(classes=np.array([0, 1])), coefficients=[1.7, -0.4]
        ),
        "binary-linear-array": lambda: _fit(
            classes=np.array([-1, 1], dtype=np.int8),
            named=False,
            training_mode="linear_glm_baseline",
        ),
        "binary-imbalance-prior": lambda: _fit(
            classes=two, training_mode="imbalance_aware", prior=[0.9, 0.1]
        ),
        "binary-student": lambda: _fit(classes=two, training_mode="tree_teacher_distillation"),
        "three-structured": lambda: _calibrated(
            "structured", _fit(classes=three), weight=square, **scaled
        ),
        "three-vector": lambda: _calibrated(
            "vector", _fit(classes=np.array([0.0, 1.0, 7.0])), weight=[0.5, 2.0, 1.1], **scaled
        ),
        "three-isotonic": lambda: _calibrated(
            "isotonic", _fit(classes=three.astype(object), calibration=None), **steps
        ),
        "regression-linear": lambda: _fit(training_mode="linear_glm_baseline"),
        "regression-robust": lambda: _fit(numeric_encoding="robust"),
        "regression-normal": lambda: _fit(numeric_encoding="quantile_normal"),
        "regression-bins": lambda: _fit(numeric_encoding="quantile_ple"),
    }
    mixed = {
        "mixed-tabresnet": lambda: _fit(mixed_table, classes=three, training_mode="tabresnet"),
        "mixed-calibrated": lambda: _fit(
            mixed_table,
            classes=three,
            training_mode="calibrated_classifier",
            numeric_encoding="tree_ple",
        ),
        "mixed-regression": lambda: _fit(mixed_table, n_members=2),
    }
    return {
        **{name: (fit, asked_plain) for name, fit in plain.items()},
        **{name: (fit, asked_mixed) for name, fit in mixed.items()},
        "regression-values": (_fit_by_value, asked_amounts),
        "binary-values": (lambda: _fit_by_value(classes=two), asked_amounts),
        "regression-pairs": (lambda: _fit_pairs(2_500, intervals="constant"), asked_coast),
        "binary-pairs": (lambda: _fit_pairs(5_000, classes=two), asked_coast),
        "regression-formats": (_fit_formats, lambda: written_table(40)),
        "binary-formats": (lambda: _fit_formats(classes=two), lambda: written_table(40)),
        "regression-trees": (_fit_trees, asked_mixed),
        "binary-trees": (lambda: _fit_trees(classes=two), asked_mixed),
        "regression-oblivious": (_fit_oblivious, asked_mixed),
        "binary-oblivious": (lambda: _fit_oblivious(classes=two), asked_mixed),
        "binary-interactions": (
            lambda: _fit_oblivious(INTERACTIONS, classes=two),
            asked_mixed,
        ),
        "regression-decimals": (lambda: _fit(_decimals), asked_decimals),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replace", action="store_true", help="write them again")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="just these kinds")
    arguments = parser.parse_args()
    # A version under way keeps what it brings that no release has.
    folder = FOLDER / __version__.partition(".dev")[0]
    if folder.exists() and not arguments.replace:
        print(f"{folder} is there, and a release is never rewritten; see --help", file=sys.stderr)
        return 2
    warnings.simplefilter("error")
    models = {
        name: (fit(), asked())
        for name, (fit, asked) in cases().items()
        if arguments.only is None or name in arguments.only
    }
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, (model, frame) in models.items():
        path = folder / f"{name}.safetensors"
        model.save(path)
        predictor = Predictor(model)
        regression = model.classes is None
        said = predictor.predict_values(frame) if regression else predictor.predict_proba(frame)
        write_golden(path, frame, said, model.classes)
        print(f"{path.stat().st_size:7,} bytes  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
