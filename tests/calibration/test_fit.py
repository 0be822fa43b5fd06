"""Laws of calibration: it helps or stays away, keeps the argmax, and never blows up."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.calibration import fit as calibration
from tabwright.calibration.calibrator import (
    Calibrator,
    CalibratorKind,
    change_prior,
    log_proba,
    prior_log_ratio,
)
from tabwright.calibration.fit import (
    check_calibration,
    fit_calibrator,
    refined_log_loss,
)
from tabwright.errors import ArtifactError
from tabwright.settings import CalibrationName
from tests.losses import log_loss

KINDS: list[CalibrationName] = ["temperature", "logistic", "vector", "structured", "isotonic"]


def fit_inverse_temperature(
    proba: np.ndarray,
    codes: np.ndarray,
    sample_weight: np.ndarray | None = None,
    class_weights: np.ndarray | None = None,
) -> float:
    rows = calibration._some_rows(proba, codes, sample_weight, class_weights)
    return calibration._inverse_temperature(log_proba(rows.proba), rows)


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def draw(
    n_rows: int, n_classes: int, seed: int, *, sharpness: float = 1.0, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose logits are wrong by a factor and by a shift of the last class."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.normal(size=(n_rows, n_classes))
    truth = softmax(logits)
    codes = (rng.random((n_rows, 1)) > np.cumsum(truth, axis=1)).sum(axis=1)
    logits[:, -1] += shift
    return softmax(sharpness * logits), np.minimum(codes, n_classes - 1)


def kinds_for(n_classes: int) -> list[CalibrationName]:
    unfit = {"vector", "structured"} if n_classes == 2 else {"logistic"}
    return [kind for kind in KINDS if kind not in unfit]


@pytest.fixture
def isotonic_from_100_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_MIN_ROWS_ISOTONIC", 100)


@pytest.mark.usefixtures("isotonic_from_100_rows")
@pytest.mark.parametrize("n_classes", [2, 5])
def test_every_kind_mends_overconfidence(n_classes: int) -> None:
    p, y = draw(3000, n_classes, 0, sharpness=2.5)
    test_p, test_y = draw(20_000, n_classes, 1, sharpness=2.5)
    best = log_loss(test_y, softmax(np.log(test_p) / 2.5))
    before = log_loss(test_y, test_p)
    for kind in [*kinds_for(n_classes), "auto"]:
        fit = fit_calibrator(p, y, kind=kind)
        after = log_loss(test_y, fit.calibrator.apply(test_p))
        assert fit.accepted
        assert fit.calibrator.kind == ("temperature" if kind == "auto" else kind)
        assert after - best < 0.1 * (before - best), kind
        assert before - after == pytest.approx(fit.gain, abs=5 * fit.standard_error)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_auto_takes_a_richer_kind_where_a_temperature_cannot_help(n_classes: int) -> None:
    p, y = draw(3000, n_classes, 0, shift=2.0)
    test_p, test_y = draw(20_000, n_classes, 1, shift=2.0)
    fit = fit_calibrator(p, y, kind="auto")
    assert fit.calibrator.kind == ("logistic" if n_classes == 2 else "vector")
    only = fit_calibrator(p, y, kind="temperature")
    richer = log_loss(test_y, fit.calibrator.apply(test_p))
    assert richer < log_loss(test_y, only.calibrator.apply(test_p)) - 0.02


def test_structured_mends_what_a_vector_cannot() -> None:
    def mixed(seed: int) -> tuple[np.ndarray, np.ndarray]:
        p, y = draw(8000, 3, seed)
        mixing = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        return softmax(np.log(p) @ mixing.T), y

    fits = {kind: fit_calibrator(*mixed(0), kind=kind) for kind in ("vector", "structured")}
    p, y = mixed(1)
    loss = {kind: log_loss(y, fit.calibrator.apply(p)) for kind, fit in fits.items()}
    assert loss["structured"] < loss["vector"] - 0.01
    assert loss["structured"] < log_loss(*draw(8000, 3, 1)[::-1]) + 0.003
    assert fit_calibrator(*mixed(0), kind="auto").calibrator.kind == "structured"


@pytest.mark.parametrize("n_classes", [2, 4])
def test_calibrated_probabilities_are_left_alone(n_classes: int) -> None:
    changed = 0
    for seed in range(30):
        p, y = draw(300, n_classes, seed)
        fit = fit_calibrator(p, y, kind="auto")
        changed += fit.accepted
        if not fit.accepted:
            assert fit.calibrator.apply(p) is p
            assert fit.message.startswith("not calibrated: ")
            assert fit.gain <= fit.standard_error + 1e-9
    # One standard error lets about one in six through, were the candidates unbiased; they pay
    # for what they fit.
    assert changed <= 6


@settings(max_examples=80, deadline=None)
@given(
    st.integers(5, 60),
    st.integers(2, 5),
    st.integers(0, 10**6),
    st.sampled_from(["random", "right", "one class", "last class absent", "zeros"]),
)
def test_never_a_blow_up(n_rows: int, n_classes: int, seed: int, trouble: str) -> None:
    p, y = draw(n_rows, n_classes, seed, sharpness=3.0)
    test_p, test_y = draw(2000, n_classes, seed + 1, sharpness=3.0)
    if trouble == "random":
        rng = np.random.default_rng(seed)
        y, test_y = rng.integers(0, n_classes, n_rows), rng.integers(0, n_classes, 2000)
    elif trouble == "right":
        y = p.argmax(axis=1)
    elif trouble == "one class":
        y = np.zeros(n_rows, dtype=int)
    elif trouble == "last class absent":
        y = np.minimum(y, n_classes - 2)
    else:
        p, test_p = (np.eye(n_classes)[q.argmax(axis=1)] for q in (p, test_p))
    for kind in [*kinds_for(n_classes), "auto"]:
        fit = fit_calibrator(p, y, kind=kind)
        q = fit.calibrator.apply(test_p)
        assert np.isfinite(q).all()
        assert (q >= 0.0).all()
        assert np.abs(q.sum(axis=1) - 1.0).max() < 1e-9
        if trouble in ("random", "zeros"):
            # Validation and test rows are alike: harm, where it happens at all, stays small.
            assert log_loss(test_y, q) <= 1.2 * log_loss(test_y, test_p) + 0.05


def test_few_rows_cannot_prove_that_a_model_is_always_right() -> None:
    # 40 rows, all predicted right with probability 0.9, of a model that is right 9 times in 10.
    p = np.tile([[0.1, 0.9]], (40, 1))
    value = fit_inverse_temperature(p, np.ones(40, dtype=int))
    calibrated = Calibrator("temperature", {"inverse_temperature": np.array([value])}).apply(p)
    assert 0.9 < calibrated[0, 1] < 0.985


@given(
    st.integers(2, 6),
    st.floats(0.2, 5.0),
    st.data(),
)
def test_temperature_keeps_the_argmax(n_classes: int, value: float, data: st.DataObject) -> None:
    row = st.lists(st.floats(0.0, 1.0), min_size=n_classes, max_size=n_classes)
    p = np.array(data.draw(st.lists(row.filter(lambda r: sum(r) > 0.0), min_size=1, max_size=5)))
    p /= p.sum(axis=1, keepdims=True)
    # Also a row whose two highest are one rounding error apart.
    close = np.full(n_classes, 0.1 / n_classes)
    close[-1], close[-2] = np.nextafter(0.45, 1.0), 0.45
    p = np.vstack([p, close])
    calibrated = Calibrator("temperature", {"inverse_temperature": np.array([value])}).apply(p)
    assert np.array_equal(calibrated.argmax(axis=1), p.argmax(axis=1))


@pytest.mark.filterwarnings("ignore:Since FrozenEstimator does not appear to accept sample_weight")
@pytest.mark.parametrize("seed", range(4))
def test_the_inverse_temperature_is_the_minimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p, y = draw(200, 3, seed, sharpness=[0.3, 1.0, 3.0, 8.0][seed])
    w = np.random.default_rng(seed).random(200)
    n = w.sum() ** 2 / (w**2).sum()
    labels = np.eye(3)[y] * n / (n + 1) + 1 / 3 / (n + 1)

    def loss(value: float, pull: float = 3.0) -> float:
        rows = -(labels * np.log(softmax(value * np.log(p)))).sum(axis=1)
        return float(np.average(rows, weights=w) + pull / n * (value - 1.0) ** 2)

    found = minimize_scalar(loss, bounds=(0.2, 5.0), options={"xatol": 1e-10}).x
    assert fit_inverse_temperature(p, y, w) == pytest.approx(found, abs=1e-6)
    # and without smoothing and pull it is scikit-learn's
    monkeypatch.setattr(calibration, "_effective_rows", lambda counts, unit_weight: 1e15)

    class Given(LogisticRegression):  # type: ignore[misc]
        def fit(self, X: np.ndarray, y: np.ndarray) -> Given:
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return X

        def decision_function(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(np.log(X))

    from sklearn.frozen import FrozenEstimator

    theirs = CalibratedClassifierCV(FrozenEstimator(Given().fit(p, y)), method="temperature")
    theirs.fit(p, y, sample_weight=w)
    value = fit_inverse_temperature(p, y, w)
    beta = theirs.calibrated_classifiers_[0].calibrators[0].beta_
    assert value == pytest.approx(float(np.clip(beta, 0.2, 5.0)), rel=1e-5)


def test_logistic_is_scikit_learns_regression_on_the_log_odds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, y = draw(5000, 2, 0, sharpness=2.0, shift=1.0)
    w = np.random.default_rng(0).random(5000)
    # Nothing is left of smoothing and penalties among so many rows.
    monkeypatch.setattr(calibration, "_effective_rows", lambda counts, unit_weight: 1e15)
    fit = fit_calibrator(p, y, kind="logistic", sample_weight=w)
    odds = np.log(p[:, 1] / p[:, 0])[:, None]
    theirs = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(odds, y, sample_weight=w)
    assert fit.calibrator.arrays["coefficients"] == pytest.approx(
        [theirs.coef_[0, 0], theirs.intercept_[0]], abs=1e-4
    )


@pytest.mark.usefixtures("isotonic_from_100_rows")
@pytest.mark.parametrize(
    ("n_classes", "kind"),
    [(n_classes, kind) for n_classes in (2, 4) for kind in [*kinds_for(n_classes), "auto"]],
)
@pytest.mark.parametrize("class_weights", [None, [0.3, 1.0, 2.7, 1.0]])
@pytest.mark.parametrize("sharpness", [1.1, 2.0])
def test_a_weight_of_two_is_the_row_twice(
    n_classes: int, sharpness: float, class_weights: list[float] | None, kind: CalibrationName
) -> None:
    p, y = draw(400, n_classes, 0, sharpness=sharpness)
    w = np.random.default_rng(0).integers(0, 4, 400).astype(np.float64)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(400), w.astype(int)))
    factors = None if class_weights is None else np.array(class_weights[:n_classes])
    weighted = fit_calibrator(p, y, kind=kind, sample_weight=w, class_weights=factors)
    repeated = fit_calibrator(p[order], y[order], kind=kind, class_weights=factors)
    # Sums of other orders differ by rounding, and a minimum is found to a few digits.
    assert weighted.calibrator.kind == repeated.calibrator.kind
    assert weighted.accepted == repeated.accepted
    assert weighted.gain == pytest.approx(repeated.gain, rel=1e-3, abs=1e-7)
    assert weighted.standard_error == pytest.approx(repeated.standard_error, rel=1e-3)
    proba = weighted.calibrator.apply(p)
    np.testing.assert_allclose(proba, repeated.calibrator.apply(p), atol=2e-5)
    for score in (fit_inverse_temperature, refined_log_loss):
        once = score(p, y, w, factors)
        assert once == pytest.approx(score(p[order], y[order], None, factors), rel=1e-9)


@pytest.mark.usefixtures("isotonic_from_100_rows")
@pytest.mark.parametrize("n_classes", [2, 4])
def test_other_weights_have_no_scale(n_classes: int) -> None:
    p, y = draw(400, n_classes, 0, sharpness=2.0)
    w = np.random.default_rng(0).integers(0, 3, 400) + 2.5 * (p.argmax(axis=1) != y)
    kept = w > 0

    def fitted(kind: CalibrationName, index: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        fit = fit_calibrator(p[index], y[index], kind=kind, sample_weight=weight)
        assert fit.calibrator.kind == kind
        return fit.calibrator.apply(p)

    everything = np.arange(400)
    for kind in kinds_for(n_classes):
        weighted = fitted(kind, everything, w)
        # Neither the scale of the weights matters nor a row of weight zero.
        assert np.allclose(weighted, fitted(kind, everything, w * 1e-7), atol=1e-5), kind
        assert np.allclose(weighted, fitted(kind, kept, w[kept]), atol=1e-5), kind
        assert np.abs(weighted - fitted(kind, everything, None)).max() > 0.02, kind
        # Class weights say how much a class matters; whole or not, they do not count rows.
        factors = np.array([2.0, 3.0, 1.0, 4.0])[:n_classes]
        by_class = fit_calibrator(p, y, kind=kind, class_weights=factors).calibrator.apply(p)
        assert np.allclose(by_class, fitted(kind, everything, factors[y] * 0.3), atol=1e-5), kind


def test_a_copy_is_not_held_out_from_its_row() -> None:
    # With 20 parameters and no penalty to speak of, 40 rows are half learned by heart, which is a
    # gain on these and a loss on any other.
    weighted, copied = [], []
    for seed in range(6):
        p, y = draw(40, 4, seed)
        weighted.append(fit_calibrator(p, y, kind="structured", sample_weight=np.full(40, 1000)))
        copies = np.repeat(np.arange(40), 20)
        noise = np.random.default_rng(seed).normal(size=(800, 4)) * 1e-8
        copied.append(fit_calibrator(p[copies] + noise, y[copies], kind="structured"))
    for fits in (weighted, copied):
        assert np.mean([fit.gain for fit in fits]) < -0.02


def test_copies_that_rounding_parted_move_few_rows() -> None:
    # As networks give them: copies of a row differ by 1e-7.
    p, y = draw(5_000, 2, 0, sharpness=1.05)
    copies = np.repeat(np.arange(5_000), 2)
    noisy = p[copies] * np.exp(np.random.default_rng(0).normal(size=(10_000, 2)) * 2e-7)
    weighted = fit_calibrator(p, y, kind="temperature", sample_weight=np.full(5_000, 2))
    repeated = fit_calibrator(noisy, y[copies], kind="temperature")
    assert abs(weighted.gain - repeated.gain) < 0.2 * weighted.standard_error
    assert weighted.standard_error == pytest.approx(repeated.standard_error, rel=0.01)
    folds = []
    for proba, codes in ((p[copies], y[copies]), (noisy, y[copies])):
        rows = calibration._weighted_rows(proba, codes, None, None)
        assert rows is not None
        folds.append(calibration._folds(rows, calibration._kinds(rows, 0), 5))
    assert (folds[0] != folds[1]).mean() < 0.02


@pytest.mark.parametrize("n_classes", [2, 5])
def test_folds_are_even_and_spread_classes(n_classes: int) -> None:
    p, y = draw(1_000, n_classes, 0)
    rows = calibration._weighted_rows(p, y, None, None)
    assert rows is not None
    folds = calibration._folds(rows, calibration._kinds(rows, 0), 10)
    for label in range(n_classes):
        sizes = np.bincount(folds[y == label], minlength=10)
        # Rows of nearly equal probabilities lie together.
        assert sizes.max() - sizes.min() <= 4
    assert not np.array_equal(folds, calibration._folds(rows, calibration._kinds(rows, 1), 10))


@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1e17, 1e200])
def test_extreme_weights_are_weights(scale: float) -> None:
    p, y = draw(300, 3, 0, sharpness=2.0)
    w = np.random.default_rng(0).uniform(0.5, 1.0, 300)
    plain, scaled = (
        fit_calibrator(p, y, kind="vector", sample_weight=weight) for weight in (w, w * scale)
    )
    assert scaled.gain == pytest.approx(plain.gain, rel=1e-4)
    assert scaled.standard_error == pytest.approx(plain.standard_error, rel=1e-4)


def test_no_weight_at_all() -> None:
    p, y = draw(50, 2, 0)
    fit = fit_calibrator(p, y, kind="auto", sample_weight=np.zeros(50))
    assert fit.message.startswith("not calibrated: 0 validation rows are too few")
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        refined_log_loss(p, y, np.zeros(50))


def test_two_rows_however_heavy_fit_no_matrix() -> None:
    fit = fit_calibrator(
        softmax(np.eye(3)[:2]), np.array([0, 1]), kind="auto", sample_weight=np.full(2, 100)
    )
    assert fit.calibrator.kind in ("identity", "temperature")
    fit = fit_calibrator(
        softmax(np.eye(3)[:2]), np.array([0, 1]), kind="vector", sample_weight=np.full(2, 100)
    )
    assert "vector calibration needs 10 different predictions; got 2" in fit.message


def test_one_prediction_for_all_rows_is_left_alone() -> None:
    fit = fit_calibrator(np.tile([[0.3, 0.7]], (50, 1)), np.arange(50) % 2, kind="auto")
    assert not fit.accepted
    assert "all validation rows have the same probabilities" in fit.message


def test_isotonic_waits_for_10_000_rows_and_keeps_rows_apart() -> None:
    p, y = draw(10_000, 2, 0, sharpness=2.0)
    few = fit_calibrator(p[:9999], y[:9999], kind="isotonic")
    assert not few.accepted
    assert "isotonic calibration needs 10000 validation rows; got 9999" in few.message
    calibrator = fit_calibrator(p, y, kind="isotonic").calibrator
    assert calibrator.kind == "isotonic"
    grid = np.linspace(0.0, 1.0, 1001)
    calibrated = calibrator.apply(np.stack([1.0 - grid, grid], axis=1))
    assert (np.diff(calibrated[:, 1]) > 0.0).all()
    assert (calibrated > 0.0).all()


def test_too_few_rows_are_said_so() -> None:
    p, y = draw(9, 2, 0)
    fit = fit_calibrator(p, y, kind="auto")
    assert fit.message.startswith("not calibrated: 9 validation rows are too few")
    assert (fit.accepted, fit.gain, fit.calibrator.kind) == (False, 0.0, "identity")


def test_same_seed_same_fit() -> None:
    p, y = draw(500, 4, 0, sharpness=1.5)
    first, again = (fit_calibrator(p, y, kind="auto", random_state=3) for _ in range(2))
    assert np.array_equal(first.calibrator.apply(p), again.calibrator.apply(p))
    assert first.gain == again.gain
    assert first.gain != fit_calibrator(p, y, kind="auto", random_state=4).gain


def test_refined_log_loss_ignores_the_temperature() -> None:
    p, y = draw(2000, 3, 0)
    sharp = softmax(2.0 * np.log(p))
    assert refined_log_loss(sharp, y) == pytest.approx(refined_log_loss(p, y), abs=1e-3)
    assert refined_log_loss(sharp, y) < log_loss(y, sharp) - 0.05


@pytest.mark.usefixtures("isotonic_from_100_rows")
@pytest.mark.parametrize("n_classes", [2, 4])
def test_state_round_trip_is_bit_identical(n_classes: int) -> None:
    p, y = draw(400, n_classes, 0, sharpness=2.0)
    fits = [fit_calibrator(p, y, kind=kind).calibrator for kind in kinds_for(n_classes)]
    assert {c.kind for c in fits} == set(kinds_for(n_classes))
    for calibrator in [Calibrator(), *fits]:
        document, arrays = calibrator.to_state()
        back = Calibrator.from_state(Reader(document), TensorBag(arrays), n_classes=n_classes)
        assert np.array_equal(back.apply(p), calibrator.apply(p))


def isotonic(**change: list[float]) -> dict[str, np.ndarray]:
    arrays = {"inputs": [0.2, 0.8], "outputs": [0.1, 0.9], "lengths": [2.0]} | change
    return {name: np.array(values) for name, values in arrays.items()}


@pytest.mark.parametrize(
    ("kind", "arrays", "message"),
    [
        ("other", {}, "kind must be one of"),
        ("vector", {}, "one that fits 2 classes"),
        ("temperature", {}, "inverse_temperature"),
        ("temperature", {"inverse_temperature": np.array([0.0])}, r"in \[1 / 5, 5\]"),
        ("temperature", {"inverse_temperature": np.array([1.0, 1.0])}, "inverse_temperature"),
        ("temperature", {"inverse_temperature": np.array([np.nan])}, "inverse_temperature"),
        ("logistic", {"coefficients": np.array([-1.0, 0.0])}, r"in \[1 / 5, 5\]"),
        ("identity", {"extra": np.array([1.0])}, "extra"),
        ("isotonic", isotonic(lengths=[3.0]), "lengths that sum to the inputs"),
        ("isotonic", isotonic(lengths=[2.5]), "lengths that sum to the inputs"),
        ("isotonic", isotonic(outputs=[0.9, 0.1]), "rising outputs"),
        ("isotonic", isotonic(inputs=[0.9, 0.1]), "rising inputs"),
        ("isotonic", isotonic(outputs=[0.0, 0.5]), r"outputs in \(0, 1\)"),
        ("isotonic", isotonic(outputs=[0.5]), "an output for each input"),
    ],
)
def test_a_changed_file_is_refused(kind: str, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Calibrator.from_state(Reader({"kind": kind}), TensorBag(arrays), n_classes=2)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ArtifactError, match="extra"):
        Calibrator.from_state(Reader({"kind": "identity", "extra": 1}), TensorBag({}), n_classes=2)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="'logistic' is for two classes; got 3; use 'vector'"):
        check_calibration("logistic", 3)
    for kind in ("vector", "structured"):
        with pytest.raises(ValueError, match=f"{kind!r} is for more than two classes; got 2"):
            fit_calibrator([[0.5, 0.5]], [0], kind=kind)
    with pytest.raises(ValueError, match=r"calibration must be one of auto, .*; got 'platt'"):
        check_calibration("platt", 2)  # type: ignore[arg-type]
    assert set(get_args(CalibratorKind)) == {"identity", *get_args(CalibrationName)} - {"auto"}


@given(st.integers(2, 5), st.integers(0, 1000))
def test_prior_change_is_bayes_rule(n_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    likelihood = rng.random((6, n_classes)) + 1e-3
    seen, new = (rng.dirichlet(np.ones(n_classes)) + 1e-3 for _ in range(2))
    seen, new = seen / seen.sum(), new / new.sum()
    weights = rng.random(n_classes) + 0.1

    def posterior(prior: np.ndarray) -> np.ndarray:
        joint = likelihood * prior
        return np.asarray(joint / joint.sum(axis=1, keepdims=True))

    trained = posterior(seen * weights)
    for prior, wanted in (("training", seen), ("balanced", np.ones(n_classes)), (new, new)):
        ratio = prior_log_ratio(prior, class_prior=seen, class_weights=weights)
        assert change_prior(trained, ratio) == pytest.approx(posterior(wanted), abs=1e-12)
        back = change_prior(change_prior(trained, ratio), -ratio)
        assert back == pytest.approx(trained, abs=1e-12)
        assert change_prior(trained, ratio + 7.0) == pytest.approx(posterior(wanted), abs=1e-12)


def test_prior_change_by_hand() -> None:
    # Odds 1 : 1 under equal shares are odds 1 : 9 where class 1 is nine times as common.
    ratio = prior_log_ratio([0.1, 0.9], class_prior=[0.5, 0.5])
    assert change_prior(np.array([[0.5, 0.5], [0.0, 1.0]]), ratio) == pytest.approx(
        np.array([[0.1, 0.9], [0.0, 1.0]])
    )
    # The usual weights n / (C n_c) mean equal shares: nothing to change.
    seen = np.array([0.2, 0.8])
    ratio = prior_log_ratio("balanced", class_prior=seen, class_weights=1 / (2 * seen))
    assert ratio == pytest.approx([ratio[0]] * 2)


def test_prior_refusals() -> None:
    seen = [0.5, 0.5]
    for prior in ([0.0, 1.0], [1.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="prior must hold 2 positive shares"):
            prior_log_ratio(prior, class_prior=seen)
    with pytest.raises(ValueError, match="prior must be 'training', 'balanced' or an array"):
        prior_log_ratio("uniform", class_prior=seen)
    with pytest.raises(ValueError, match="log_ratio must hold 2 finite numbers"):
        change_prior(np.array([[0.5, 0.5]]), [0.0])


def test_applying_needs_numpy_alone() -> None:
    code = (
        "import sys, numpy as np\n"
        "from tabwright.calibration.fit import Calibrator\n"
        "Calibrator('temperature', {'inverse_temperature': np.array([2.0])})"
        ".apply(np.array([[0.2, 0.8]]))\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'pandas', 'polars', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
