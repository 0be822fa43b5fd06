"""What the suite compares: Tabwright in its variants, references, and peers of other environments.

Every contender gets the same training rows, class codes as labels, the columns of the table, a
seed and a number of threads, and sets its own validation rows aside where it needs some. Settings
are the defaults of each library; every departure is in the class that makes it, with its reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, get_args
from unittest import mock

import numpy as np
import polars as pl

from benchmarks.code_hash import hash_definition, hash_file, hash_modules
from benchmarks.tables import ROOT, Task

PEER_WORKER = Path(__file__).with_name("peer_worker.py")
MISSING = "(missing)"
WITHOUT_INTERACTIONS = "tabwright_without_interactions"
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Job:
    """What a contender is told besides the rows."""

    task: Task
    n_classes: int
    seed: int
    threads: int


class Contender(Protocol):
    """Learns from one table and predicts."""

    details: dict[str, Any]

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        """Learn from training rows; `y` holds int64 class codes or float64 values."""

    def predict(self, X: pl.DataFrame) -> np.ndarray:
        """Probabilities (n_rows, n_classes), or values (n_rows,)."""


@dataclass(frozen=True)
class Entry:
    """A contender of the suite.

    Parameters
    ----------
    name : str
        As on the command line and in the results.
    build : callable
        Makes an unfitted contender; slow imports happen here, before the clock starts.
    code : str
        Hash of the code of this repository that decides its results.
    versions : dict of str to str
        Versions of what else decides them.
    settings, class_settings : dict
        Settings asked for, for either task and for classification on top.
    tasks : tuple of Task
        What it can do.
    """

    name: str
    build: Callable[[Job], Contender]
    code: str
    versions: Mapping[str, str]
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    class_settings: Mapping[str, Scalar] = field(default_factory=dict)
    tasks: tuple[Task, ...] = get_args(Task)

    def settings_for(self, task: Task) -> dict[str, Scalar]:
        """The settings that a task has."""
        return {**self.settings, **(self.class_settings if task == "classification" else {})}


# ---------------------------------------------------------------------------------------- columns


def plain_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Numbers and booleans as Float64, times as their calendar parts, all else as String.

    Only Tabwright takes times as they are; the others get the parts that a user would make.
    """
    columns: list[pl.Series] = []
    for series in frame.iter_columns():
        name = series.name
        if series.dtype.is_temporal():
            times = series.cast(pl.Datetime("us"))
            day = {
                "elapsed": times.to_physical() / 86_400e6,
                "year": times.dt.year(),
                "day_of_year": times.dt.ordinal_day(),
                "month": times.dt.month(),
                "weekday": times.dt.weekday(),
            }
            if series.dtype != pl.Date:
                day["hour"] = times.dt.hour() + times.dt.minute() / 60
            columns += [part.cast(pl.Float64).alias(f"{name}.{kind}") for kind, part in day.items()]
        elif series.dtype.is_numeric() or series.dtype == pl.Boolean:
            columns.append(series.cast(pl.Float64))
        else:
            columns.append(series.cast(pl.String))
    return pl.DataFrame(columns)


def categorical_names(plain: pl.DataFrame) -> list[str]:
    """The String columns of `plain_columns`."""
    return [name for name, dtype in plain.schema.items() if dtype == pl.String]


class LevelCodes:
    """Categories as the codes of their training levels; -1 for missing and unseen ones."""

    def __init__(self, plain: pl.DataFrame) -> None:
        self.levels = {name: plain[name].unique().drop_nulls().sort() for name in plain.columns}

    def __call__(self, plain: pl.DataFrame) -> dict[str, np.ndarray]:
        coded = {}
        for name, levels in self.levels.items():
            codes = plain[name].replace_strict(
                levels, pl.int_range(len(levels), eager=True), default=-1, return_dtype=pl.Int64
            )
            coded[name] = codes.fill_null(-1).to_numpy()
        return coded


class CodedFrame:
    """The plain columns as one pandas frame for tree libraries; columns are named c0, c1, ...

    LightGBM and XGBoost refuse brackets in column names.
    """

    def __init__(self, X: pl.DataFrame) -> None:
        plain = plain_columns(X)
        self.codes = LevelCodes(plain.select(categorical_names(plain)))

    def numbers(self, X: pl.DataFrame) -> np.ndarray:
        """float64 of shape (n_rows, n_columns), NaN for missing, categories as codes."""
        plain = plain_columns(X)
        coded = {k: np.where(v < 0, np.nan, v) for k, v in self.codes(plain).items()}
        columns = [
            coded[name] if name in coded else plain[name].to_numpy() for name in plain.columns
        ]
        return np.column_stack(columns).astype(np.float64)

    def native(self, X: pl.DataFrame) -> Any:
        """A pandas frame with categorical columns."""
        import pandas as pd

        plain = plain_columns(X)
        coded = self.codes(plain)
        columns: dict[str, Any] = {}
        for i, name in enumerate(plain.columns):
            columns[f"c{i}"] = (
                pd.Categorical.from_codes(coded[name], pd.Index(self.codes.levels[name].to_list()))
                if name in coded
                else plain[name].to_numpy()
            )
        return pd.DataFrame(columns)


def fixed_columns(prediction: np.ndarray, classes: np.ndarray, job: Job) -> np.ndarray:
    """Probabilities with one column per class, also for classes the training rows lack."""
    if job.task == "regression":
        return np.asarray(prediction, dtype=np.float64).ravel()
    proba = np.zeros((len(prediction), job.n_classes))
    proba[:, np.asarray(classes, dtype=np.int64)] = prediction
    return proba


# ------------------------------------------------------------------------------- our own models


class Tabwright:
    """`TabularClassifier` or `TabularRegressor` with settings from the command line."""

    def __init__(self, job: Job, settings: Mapping[str, Scalar]) -> None:
        import torch

        from tabwright import TabularClassifier, TabularRegressor

        torch.set_num_threads(job.threads)
        self.job = job
        self.details: dict[str, Any] = {}
        known = {
            "classification": set(TabularClassifier().get_params(deep=False)),
            "regression": set(TabularRegressor().get_params(deep=False)),
        }
        unknown = [name for name in settings if name not in set.union(*known.values())]
        if unknown:
            raise ValueError(
                f"a variant's settings must be parameters of the estimators; got "
                f"{', '.join(unknown)}; there are {', '.join(sorted(set.union(*known.values())))}"
            )
        # A variant of a classifier's setting is the default in regression.
        usable: dict[str, Any] = {k: v for k, v in settings.items() if k in known[job.task]}
        build = TabularClassifier if job.task == "classification" else TabularRegressor
        self.model = build(random_state=job.seed, device="cpu", **usable)

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        self.model.fit(X, y)
        plan = self.model.model_.encoder.plan_
        self.details = {
            "interactions": [plan.pair_name(column) for column in plan.pairs],
            "resolved": self.model.settings_.to_document(),
            "epochs": len(self.model.history_),
        }

    def predict(self, X: pl.DataFrame) -> np.ndarray:
        if self.job.task == "regression":
            return np.asarray(self.model.predict(X))
        return fixed_columns(self.model.predict_proba(X), self.model.classes_, self.job)


class TabwrightWithoutInteractions(Tabwright):
    """The same, which looks for no interactions of numeric columns."""

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        from tabwright.fitting import interactions

        with mock.patch.object(interactions, "find_interactions", return_value=()):
            super().fit(X, y)


# ------------------------------------------------------------------------------------- references


class Reference:
    """A scikit-learn-style model behind an encoding of its own."""

    tasks: tuple[Task, ...] = get_args(Task)

    def __init__(self, job: Job) -> None:
        self.job = job
        self.details: dict[str, Any] = {}
        self.model = self.build()

    def build(self) -> Any:
        """The unfitted model."""
        raise NotImplementedError

    def encode(self, X: pl.DataFrame, *, fit: bool) -> Any:
        """Columns as the model takes them."""
        if fit:
            self.frame = CodedFrame(X)
        return self.frame.numbers(X)

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        self.model.fit(self.encode(X, fit=True), y)

    def predict(self, X: pl.DataFrame) -> np.ndarray:
        encoded = self.encode(X, fit=False)
        if self.job.task == "regression":
            return fixed_columns(self.model.predict(encoded), np.empty(0), self.job)
        return fixed_columns(self.model.predict_proba(encoded), self.model.classes_, self.job)

    @property
    def classifies(self) -> bool:
        return self.job.task == "classification"


class Dummy(Reference):
    """Class shares, or the mean."""

    def build(self) -> Any:
        from sklearn.dummy import DummyClassifier, DummyRegressor

        return DummyClassifier(strategy="prior") if self.classifies else DummyRegressor()


class OneHotReference(Reference):
    """Numbers imputed (median, indicator) and standardised; categories one-hot.

    Levels of fewer than 5 rows are pooled, and take unseen ones; a missing category is a level.
    """

    def encode(self, X: pl.DataFrame, *, fit: bool) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        plain = plain_columns(X)
        names = categorical_names(plain)
        numbers = plain.drop(names).to_numpy().astype(np.float64)
        levels = np.empty((len(plain), len(names)), dtype=object)
        for j, name in enumerate(names):
            levels[:, j] = plain[name].fill_null(MISSING).to_numpy()
        columns = np.concatenate([numbers.astype(object), levels], axis=1)
        if fit:
            n = numbers.shape[1]
            self.encoder = ColumnTransformer(
                [
                    (
                        "numbers",
                        make_pipeline(
                            SimpleImputer(strategy="median", add_indicator=True), StandardScaler()
                        ),
                        list(range(n)),
                    ),
                    (
                        "categories",
                        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5),
                        list(range(n, columns.shape[1])),
                    ),
                ]
            )
            return self.encoder.fit_transform(columns)
        return self.encoder.transform(columns)


class Linear(OneHotReference):
    """Logistic or ridge regression; iterations raised so that they converge."""

    def build(self) -> Any:
        from sklearn.linear_model import LogisticRegression, Ridge

        return LogisticRegression(max_iter=2000) if self.classifies else Ridge()


class SklearnMLP(OneHotReference):
    """scikit-learn's MLP with early stopping, without which its log-loss diverges.

    The regressor learns a standardised target, as every neural peer does.
    """

    def build(self) -> Any:
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.preprocessing import StandardScaler

        if self.classifies:
            return MLPClassifier(early_stopping=True, random_state=self.job.seed)
        return TransformedTargetRegressor(
            MLPRegressor(early_stopping=True, random_state=self.job.seed),
            transformer=StandardScaler(),
        )


class HistGradientBoosting(Reference):
    """scikit-learn's; columns of at most 255 levels (its limit) as categories, others as codes."""

    def build(self) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        build = HistGradientBoostingClassifier if self.classifies else HistGradientBoostingRegressor
        return build(random_state=self.job.seed)

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        encoded = self.encode(X, fit=True)
        levels = self.frame.codes.levels
        names = plain_columns(X.head(1)).columns
        mask = [name in levels and len(levels[name]) <= 255 for name in names]
        self.model.set_params(categorical_features=mask).fit(encoded, y)


class RandomForest(Reference):
    """300 trees; 3 rows a leaf in classification, without which probabilities of 0 abound."""

    def build(self) -> Any:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        settings = {"n_estimators": 300, "n_jobs": self.job.threads, "random_state": self.job.seed}
        if self.classifies:
            return RandomForestClassifier(min_samples_leaf=3, **settings)
        return RandomForestRegressor(**settings)


class NativeReference(Reference):
    """A library that takes pandas categories."""

    def encode(self, X: pl.DataFrame, *, fit: bool) -> Any:
        if fit:
            self.frame = CodedFrame(X)
        return self.frame.native(X)


class LightGBM(NativeReference):
    """Its defaults: 100 trees at 0.1."""

    def build(self) -> Any:
        from lightgbm import LGBMClassifier, LGBMRegressor

        build = LGBMClassifier if self.classifies else LGBMRegressor
        return build(n_jobs=self.job.threads, random_state=self.job.seed, verbose=-1)


class LightGBM300(NativeReference):
    """300 trees at 0.05: what many use instead of the defaults."""

    def build(self) -> Any:
        from lightgbm import LGBMClassifier, LGBMRegressor

        build = LGBMClassifier if self.classifies else LGBMRegressor
        return build(
            n_estimators=300,
            learning_rate=0.05,
            n_jobs=self.job.threads,
            random_state=self.job.seed,
            verbose=-1,
        )


class CalibratedLightGBM(LightGBM):
    """LightGBM's defaults under scikit-learn's calibration: sigmoid, five folds averaged."""

    tasks = ("classification",)

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        self.model = calibrated(self.model).fit(self.encode(X, fit=True), y)


class XGBoost(NativeReference):
    """Its defaults, categories native."""

    def build(self) -> Any:
        from xgboost import XGBClassifier, XGBRegressor

        build = XGBClassifier if self.classifies else XGBRegressor
        return build(
            n_jobs=self.job.threads,
            random_state=self.job.seed,
            enable_categorical=True,
            tree_method="hist",
        )


class CatBoost(Reference):
    """Its defaults, categories native."""

    def build(self) -> Any:
        from catboost import CatBoostClassifier, CatBoostRegressor

        build = CatBoostClassifier if self.classifies else CatBoostRegressor
        return build(
            thread_count=self.job.threads,
            random_seed=self.job.seed,
            verbose=False,
            allow_writing_files=False,
        )

    def encode(self, X: pl.DataFrame, *, fit: bool) -> Any:
        import pandas as pd

        plain = plain_columns(X)
        self.categories = categorical_names(plain)
        return pd.DataFrame(
            {
                name: plain[name].fill_null(MISSING).to_numpy().astype(object)
                if name in self.categories
                else plain[name].to_numpy()
                for name in plain.columns
            }
        )

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        encoded = self.encode(X, fit=True)
        self.model.fit(encoded, y, cat_features=self.categories)


class CatBoostOnFewerRows(CatBoost):
    """Its defaults on 80 % of the rows: those that our networks learn from.

    Trees need no validation rows at their defaults. What this loses is what holding rows out
    costs a learner; what it still has ahead of a network is not.
    """

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        from sklearn.model_selection import train_test_split

        kept, _ = train_test_split(
            np.arange(len(y)),
            train_size=0.8,
            random_state=self.job.seed,
            stratify=y if self.classifies and np.bincount(y).min() > 1 else None,
        )
        kept.sort()
        super().fit(X[kept], y[kept])


class CalibratedCatBoost(CatBoost):
    """CatBoost's defaults under scikit-learn's calibration: sigmoid, five folds averaged."""

    tasks = ("classification",)

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        encoded = self.encode(X, fit=True)
        # A CatBoost that was told its categories beforehand cannot be cloned.
        self.model = calibrated(self.model).fit(encoded, y, cat_features=self.categories)


def calibrated(model: Any) -> Any:
    """A classifier under `CalibratedClassifierCV` at its defaults."""
    from sklearn.calibration import CalibratedClassifierCV

    return CalibratedClassifierCV(model)


# ------------------------------------------------------------------------------------------- peers


class Peer:
    """A model of another environment: `peer_worker.py` run by that environment's interpreter.

    Its times are those that the worker took, without starting the process and importing.
    """

    def __init__(
        self, job: Job, python: str, estimator: str, settings: Mapping[str, Scalar]
    ) -> None:
        self.job = job
        self.python = python
        self.request: dict[str, Any] = {"estimator": estimator, "settings": dict(settings)}
        self.details: dict[str, Any] = {}

    def fit(self, X: pl.DataFrame, y: np.ndarray) -> None:
        self.train, self.target = X, y

    def predict(self, X: pl.DataFrame) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="tabwright-peer-") as name:
            folder = Path(name)
            train = plain_columns(self.train)
            document = {
                **self.request,
                "task": self.job.task,
                "seed": self.job.seed,
                "threads": self.job.threads,
                "categorical": categorical_names(train),
            }
            (folder / "job.json").write_text(json.dumps(document), encoding="utf-8")
            train.write_parquet(folder / "train.parquet")
            plain_columns(X).write_parquet(folder / "test.parquet")
            pl.DataFrame({"target": self.target}).write_parquet(folder / "target.parquet")
            run_worker(self.python, str(folder), cwd=folder)
            self.details = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            with np.load(folder / "predictions.npz", allow_pickle=False) as written:
                return fixed_columns(written["prediction"], written["classes"], self.job)


def run_worker(python: str, *words: str, cwd: Path | None = None) -> str:
    """Run `peer_worker.py` under another interpreter; what it printed.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it wrote.
    """
    done = subprocess.run(
        [python, str(PEER_WORKER), *words], capture_output=True, text=True, cwd=cwd, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the peer worker must end with 0; got {done.returncode}; {_end(done)}")
    return done.stdout


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).strip()[-800:]


# ---------------------------------------------------------------------------------------- registry

REFERENCES: dict[str, tuple[type[Reference], tuple[str, ...]]] = {
    "dummy": (Dummy, ("scikit-learn",)),
    "linear": (Linear, ("scikit-learn",)),
    "sklearn_mlp": (SklearnMLP, ("scikit-learn",)),
    "hist_gradient_boosting": (HistGradientBoosting, ("scikit-learn",)),
    "random_forest": (RandomForest, ("scikit-learn",)),
    "lightgbm": (LightGBM, ("lightgbm",)),
    "lightgbm_300": (LightGBM300, ("lightgbm",)),
    "xgboost": (XGBoost, ("xgboost",)),
    "catboost": (CatBoost, ("catboost",)),
    "lightgbm_calibrated": (CalibratedLightGBM, ("lightgbm", "scikit-learn")),
    "catboost_80_percent": (CatBoostOnFewerRows, ("catboost", "scikit-learn")),
    "catboost_calibrated": (CalibratedCatBoost, ("catboost", "scikit-learn")),
}
# The suite judges classifiers by log-loss. pytabkit's documentation recommends these settings for
# that ("if you care about metrics like cross-entropy"), so the plain name has them; `+defaults`
# leaves everything as it comes, and `+pwl` gives TabM its piecewise-linear embeddings.
_REALMLP_LOG_LOSS: dict[str, Scalar] = {"val_metric_name": "cross_entropy", "use_ls": False}
_LOG_LOSS: dict[str, Scalar] = {"val_metric_name": "cross_entropy"}
PEERS: dict[str, tuple[str, dict[str, Scalar], dict[str, Scalar]]] = {
    "pytabkit:RealMLP_TD_S": ("RealMLP_TD_S", _REALMLP_LOG_LOSS, {}),
    "pytabkit:RealMLP_TD": ("RealMLP_TD", _REALMLP_LOG_LOSS, {}),
    "pytabkit:TabM_D": ("TabM_D", _LOG_LOSS, {}),
    "pytabkit:TabM_D+pwl": ("TabM_D", _LOG_LOSS, {"num_emb_type": "pwl"}),
    "pytabkit:MLP_RTDL_D": ("MLP_RTDL_D", _LOG_LOSS, {}),
    "pytabkit:MLP_PLR_D": ("MLP_PLR_D", _LOG_LOSS, {}),
    "pytabkit:Resnet_RTDL_D": ("Resnet_RTDL_D", _LOG_LOSS, {}),
    "pytabkit:RealMLP_TD_S+defaults": ("RealMLP_TD_S", {}, {}),
    "pytabkit:RealMLP_TD+defaults": ("RealMLP_TD", {}, {}),
}


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        if library == "xgboost":
            return _installed("xgboost-cpu")
        raise ValueError(
            f"this contender needs {library}; it is not installed; `pip install {library}`"
        ) from None


def contender_names() -> tuple[str, ...]:
    """Every name that needs no `--variant`."""
    from tabwright.settings import TRAINING_MODES

    ours = ("tabwright", *(f"tabwright:{mode}" for mode in TRAINING_MODES))
    return (*ours, WITHOUT_INTERACTIONS, *REFERENCES, *PEERS)


def tabwright_entry(
    name: str, settings: Mapping[str, Scalar], make: type[Tabwright] = Tabwright
) -> Entry:
    """Tabwright with settings, under a name."""
    from tabwright.settings import TRAINING_MODES, modes_for

    mode = settings.get("training_mode", TRAINING_MODES[0])
    tasks: tuple[Task, ...] = get_args(Task)
    return Entry(
        name=name,
        build=lambda job: make(job, settings),
        code=hash_modules(ROOT, "tabwright.estimators.loading"),
        versions={
            library: version(library) for library in ("torch", "numpy", "polars", "scikit-learn")
        },
        settings=dict(settings),
        # An unknown mode is refused by the estimator, for either task.
        tasks=tuple(t for t in tasks if mode in modes_for(t) or mode not in TRAINING_MODES),
    )


def parse_variant(text: str) -> Entry:
    """Read `name:key=value,...`; values are JSON, and text where they are not.

    Raises
    ------
    ValueError
        If it does not have that form.
    """
    name, colon, rest = text.partition(":")
    settings: dict[str, Scalar] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if not (key and equals):
            raise ValueError(f"a variant must be name:key=value,...; got {text!r}")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    if not (name and colon) or name in contender_names():
        raise ValueError(
            f"a variant must be name:key=value,... with a name of its own; got {text!r}"
        )
    return tabwright_entry(name, settings)


def find_contender(name: str, peer_python: str | None = None) -> Entry:
    """The contender of a name.

    Parameters
    ----------
    name : str
        One of `contender_names()`.
    peer_python : str, optional
        Interpreter of the environment that has the peers.

    Raises
    ------
    ValueError
        If the name is unknown, or a peer is asked for without an interpreter.
    """
    here = Path(__file__)
    if name == "tabwright":
        return tabwright_entry(name, {})
    if name.startswith("tabwright:") and name in contender_names():
        return tabwright_entry(name, {"training_mode": name.removeprefix("tabwright:")})
    if name == WITHOUT_INTERACTIONS:
        return tabwright_entry(name, {}, TabwrightWithoutInteractions)
    if name in REFERENCES:
        build, libraries = REFERENCES[name]
        return Entry(
            name=name,
            build=build,
            code=hash_definition(here, build.__name__),
            versions={library: _installed(library) for library in libraries},
            tasks=build.tasks,
        )
    if name in PEERS:
        if peer_python is None:
            raise ValueError(
                f"{name} must run in an environment of its own; got none; give its interpreter "
                "with --peer-python or TABWRIGHT_PEER_PYTHON (benchmarks/README.md)"
            )
        return _peer_entry(name, peer_python, hash_definition(here, "Peer"))
    raise ValueError(
        f"a contender must be one of {', '.join(contender_names())}, or come from --variant; "
        f"got {name!r}"
    )


def _peer_entry(name: str, python: str, code: str) -> Entry:
    estimator, for_classes, for_both = PEERS[name]
    found = json.loads(run_worker(python, "--versions", "torch", "numpy", "pytabkit"))

    def build(job: Job) -> Peer:
        return Peer(job, python, estimator, entry.settings_for(job.task))

    entry = Entry(
        name=name,
        build=build,
        code=f"{code}-{hash_file(PEER_WORKER)}",
        versions=found,
        settings=for_both,
        class_settings=for_classes,
        # In regression the plain name has the defaults already.
        tasks=("classification",) if name.endswith("+defaults") else get_args(Task),
    )
    return entry


def python_version() -> str:
    """Of this interpreter."""
    return ".".join(map(str, sys.version_info[:3]))
