"""scikit-learn's own checks of estimators, all of them; warnings are errors.

`make test-oldest` runs this file under the oldest scikit-learn that is supported.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from typing import Any

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from tabwright import TabularClassifier, TabularRegressor
from tabwright.settings import TRAINING_MODES, modes_for
from tests.packages import ROOT

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 30,
    "batch_size": 32,
    "learning_rate": 0.01,
    "random_state": 0,
}
# Shuffled mini-batches and batch norm see different batches where rows are repeated; the
# statistical law is tested in test_weights_and_repeated_rows_give_the_same_model.
_WEIGHTS = {
    "check_sample_weight_equivalence_on_dense_data": "mini-batches differ",
    "check_sample_weight_equivalence_on_sparse_data": "mini-batches differ",
}
_CHECKS = parametrize_with_checks(
    [TabularClassifier(**SMALL), TabularRegressor(**SMALL)],
    expected_failed_checks=lambda estimator: _WEIGHTS,
)


# A list, since scikit-learn 1.6 hands over a generator, which pytest is about to refuse.
@pytest.mark.parametrize(_CHECKS.args[0], list(_CHECKS.args[1]), **_CHECKS.kwargs)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_the_order_of_rows_changes_nothing(kind: type[Any]) -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(90, 4))
    model = kind(**SMALL).fit(X, (X[:, 0] > 0).astype(int))
    order = draw.permutation(len(X))
    name = "predict_proba" if kind is TabularClassifier else "predict"
    answer = getattr(model, name)
    np.testing.assert_allclose(answer(X[order]), answer(X)[order], rtol=1e-9, atol=1e-12)


# Other modes differ from `mlp_dense` in network, objective, weights, calibration and the choice
# of the epoch; how parameters, tables and labels are read is the same code.
_FITTING = (
    "check_classifiers_train",
    "check_classifiers_classes",
    "check_classifiers_one_label_sample_weights",
    "check_regressors_train",
    "check_regressors_int",
    "check_sample_weights_list",
    "check_sample_weights_not_overwritten",
    "check_sample_weights_shape",
    "check_fit_idempotent",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_methods_subset_invariance",
    "check_methods_sample_order_invariance",
    "check_dict_unchanged",
    "check_estimators_pickle",
)


def _other_modes() -> list[Any]:
    cases = []
    for kind, task in ((TabularClassifier, "classification"), (TabularRegressor, "regression")):
        for mode in modes_for(task):  # type: ignore[arg-type]
            if mode == "mlp_dense":
                continue
            for name in _FITTING:
                other = "regressor" if kind is TabularClassifier else "classifier"
                if other in name:
                    continue
                cases.append(pytest.param(kind, mode, name, id=f"{task}-{mode}-{name}"))
    return cases


@pytest.mark.parametrize(("kind", "mode", "name"), _other_modes())
def test_other_modes_pass_the_checks_whose_path_differs(
    kind: type[Any], mode: str, name: str
) -> None:
    check = getattr(estimator_checks, name)
    check(kind.__name__, kind(mode, **SMALL))


def test_every_mode_but_one_is_checked_so() -> None:
    assert {case.values[1] for case in _other_modes()} == {*TRAINING_MODES} - {"mlp_dense"}


def test_oldest_environment_holds_the_lower_bound_of_the_package() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = (d for d in package["dependencies"] if d.startswith("scikit-learn"))
    pinned = (ROOT / "constraints-oldest.txt").read_text().splitlines()[-1]
    assert pinned.startswith(bound.replace(">=", "==") + ".")


def test_results_do_not_change_under_array_api_dispatch() -> None:
    """What the suite skips unless SciPy was imported with SCIPY_ARRAY_API=1."""
    offered = inspect.signature(estimator_checks._yield_array_api_checks).parameters
    if "only_numpy" not in offered:
        pytest.skip("this scikit-learn checks only estimators that declare array API support")
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from sklearn.utils import estimator_checks\n"
        "from tabwright import TabularClassifier, TabularRegressor\n"
        f"for estimator in (TabularClassifier(**{SMALL}), TabularRegressor(**{SMALL})):\n"
        "    checks = list(estimator_checks._yield_array_api_checks(estimator, only_numpy=True))\n"
        "    for check in checks:\n"
        "        check(type(estimator).__name__, estimator)\n"
        "        print('passed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["passed", "passed"]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("kernel", ["Haswell", "SkylakeX"])
def test_place_and_size_of_a_batch_pass_on_other_processors(kernel: str, n_threads: int) -> None:
    """OpenBLAS reads the kernel to run when NumPy is imported."""
    code = (
        "from sklearn.utils import estimator_checks as checks\n"
        "from tabwright import TabularClassifier, TabularRegressor\n"
        f"for estimator in (TabularClassifier(**{SMALL}), TabularRegressor(**{SMALL})):\n"
        "    name = type(estimator).__name__\n"
        "    checks.check_methods_subset_invariance(name, estimator)\n"
        "    checks.check_methods_sample_order_invariance(name, estimator)"
    )
    threads = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": kernel},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_weights_and_repeated_rows_give_the_same_model(kind: type[Any]) -> None:
    """Weight 3 against rows thrice, in the mean over members, beside no weights at all."""
    generator = np.random.default_rng(1)
    X, held = generator.normal(size=(400, 2)), generator.normal(size=(500, 2))
    # Of two rows alike one is high and weighs three times as much: weights move what is learnt.
    is_high = generator.random(400) < 1 / (1 + np.exp(-X[:, 0]))
    weight = np.where(is_high, 3, 1)
    y = is_high.astype(int) if kind is TabularClassifier else X[:, 1] + is_high
    train, validation = slice(0, 300), slice(300, 400)
    repeated = np.repeat(np.arange(300), weight[train])
    weighted_set = (X[validation], y[validation], weight[validation])
    fits = {
        "weighted": (X[train], y[train], weight[train], weighted_set),
        "repeated": (X[repeated], y[repeated], None, weighted_set),
        "plain": (X[train], y[train], None, (X[validation], y[validation])),
    }
    means = {}
    for name, (rows, target, weights, eval_set) in fits.items():
        # As many steps an epoch, whether rows are repeated or not.
        batch_size = 32 * len(target) // 300
        parameters = {**SMALL, "max_epochs": 12, "n_members": 4, "batch_size": batch_size}
        model = kind(**parameters).fit(rows, target, weights, eval_set=eval_set)
        means[name] = (
            model.predict_proba(held)[:, 1] if kind is TabularClassifier else model.predict(held)
        )
    gap = np.abs(means["weighted"] - means["repeated"]).mean()
    effect = np.abs(means["weighted"] - means["plain"]).mean()
    assert effect > 0.1
    assert gap < 0.4 * effect
