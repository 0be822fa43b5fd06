"""What came of a distillation: student, teacher and the same network trained without a teacher.

`fidelity_report` compares the three on the same rows and says in a sentence whether the teacher
helped. Nothing is trained here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.container import pack
from tabwright.distillation.soft_targets import row_losses
from tabwright.distillation.teachers import FittedTeacher, encoded_call, model_of
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.network_spec import NetworkSpec
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.inference.predictor import Predictor

if TYPE_CHECKING:
    import polars as pl

FloatArray = NDArray[np.float64]
Rows = Literal["held-out", "validation"]

# The first calls load code and fill caches; after them, as many as fit into the seconds.
_WARM_CALLS = 5
_TIMED_SECONDS = 0.05
_MOST_CALLS = 2_000


@dataclass(frozen=True)
class ModelFigures:
    """One of the three models in numbers; None where there is no such number.

    `loss`: log-loss in nats, or root mean squared error in the target's units.
    `n_parameters`: Trained numbers, over all members. Trees have none that compare.
    `file_bytes`: size of the saved model; a teacher that is not of ours is never saved.
    `row_us`: median time of one row from encoded inputs to the prediction, in microseconds.
    `raw_row_us`: the same from a raw row.
    """

    loss: float
    n_parameters: int | None = None
    file_bytes: int | None = None
    row_us: float | None = None
    raw_row_us: float | None = None


@dataclass(frozen=True)
class SweepPoint:
    """One size of a size-quality curve.

    `validation_loss`: log-loss or RMSE, of the rows that chose the epoch.
    `figures`: on the rows of the report.
    `chosen`: whether this is the student that was kept.
    """

    hidden_dim: int
    num_hidden_layers: int
    validation_loss: float
    figures: ModelFigures
    chosen: bool = False


@dataclass(frozen=True)
class FidelityReport:
    """Whether a distillation was worth it; `str()` gives it as text.

    Parameters
    ----------
    rows : {"held-out", "validation"}
        Which rows were compared on: rows that student and direct network never saw, or those that
        chose their epochs.
    n_rows : int
    metric : {"log_loss", "rmse"}
    teacher, student, direct : ModelFigures
        `direct` is the same network trained without a teacher.
    agreement : float
        Share of rows on which student and teacher name the same label; in regression the share
        of the teacher's variance that the student reproduces (R² with the teacher as the truth).
    divergence : float
        Mean Kullback-Leibler divergence of the student from the teacher, in nats; in regression
        the root mean squared difference, in the target's units.
    direct_agreement, direct_divergence : float
        The same of the direct network.
    gain, gain_error : float
        Loss of the direct network less that of the student, and its standard error over rows.
    gap, gap_error : float
        Loss of the direct network less that of the teacher, and its standard error.
    gap_closed : float or None
        `gain` over `gap`; None where the gap is not above two standard errors.
    teacher_came_fitted : bool
        Then it may have been fitted on these rows, and its loss may flatter it.
    teacher_weight : float
        With which the student was taught; 0: no teacher was the best on validation rows.
    verdict : str
    sweep : tuple of SweepPoint
    """

    rows: Rows
    n_rows: int
    metric: Literal["log_loss", "rmse"]
    teacher: ModelFigures
    student: ModelFigures
    direct: ModelFigures
    agreement: float
    divergence: float
    direct_agreement: float
    direct_divergence: float
    gain: float
    gain_error: float
    gap: float
    gap_error: float
    gap_closed: float | None
    teacher_came_fitted: bool
    teacher_weight: float
    verdict: str
    sweep: tuple[SweepPoint, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The report as plain data for JSON; numbers that are not finite become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def __str__(self) -> str:
        def cell(value: float | None, form: str) -> str:
            return "-" if value is None else format(value, form)

        lines = [self.verdict, "", f"{'':10}" + "".join(f"{n:>12}" for n in _COLUMNS)]
        for name in ("teacher", "student", "direct"):
            figures: ModelFigures = getattr(self, name)
            cells = (
                cell(figures.loss, ",.4g" if self.metric == "rmse" else ".4f"),
                cell(figures.n_parameters, ",d"),
                cell(None if figures.file_bytes is None else figures.file_bytes / 1000, ",.1f"),
                cell(figures.row_us, ",.1f"),
                cell(figures.raw_row_us, ",.1f"),
            )
            lines.append(f"{name:10}" + "".join(f"{text:>12}" for text in cells))
        kind = "agreement" if self.metric == "log_loss" else "R2 with teacher"
        lines.append(
            f"{kind} {100 * self.agreement:.1f} % (direct {100 * self.direct_agreement:.1f} %), "
            f"divergence {self.divergence:.4g} (direct {self.direct_divergence:.4g})"
        )
        for point in self.sweep:
            size = f"{point.num_hidden_layers} x {point.hidden_dim}"
            lines.append(
                f"  {size:>10}: {point.figures.loss:,.5g} on these rows, "
                f"{cell(point.figures.n_parameters, ',d')} parameters, "
                f"{cell(point.figures.row_us, '.1f')} us" + ("  <- kept" if point.chosen else "")
            )
        return "\n".join(lines)


_COLUMNS = ("loss", "parameters", "file, kB", "row, us", "raw row, us")


def fidelity_report(
    teacher: FittedTeacher,
    student: FittedModel,
    direct: FittedModel,
    frame: pl.DataFrame,
    target: NDArray[Any],
    sample_weight: FloatArray | None = None,
    *,
    rows: Rows,
    teacher_came_fitted: bool,
) -> FidelityReport:
    """Compare the three on labelled rows.

    `student`, `direct`: of the same task and classes.
    `frame`: at least one row.
    `target`: (n_rows,); class codes, int64, or values, float64.
    `sample_weight`: (n_rows,), float64.
    `rows`: what the rows are.
    `teacher_came_fitted`: whether the teacher was fitted elsewhere, perhaps on these rows.
    """
    weight = np.ones(len(target)) if sample_weight is None else sample_weight
    weight = weight / weight.sum()
    outputs = {
        "teacher": teacher.predict(frame),
        "student": _outputs(student, frame),
        "direct": _outputs(direct, frame),
    }
    losses = {name: row_losses(output, target) for name, output in outputs.items()}
    gain, gain_error = _difference(losses["direct"], losses["student"], weight, student.classes)
    gap, gap_error = _difference(losses["direct"], losses["teacher"], weight, student.classes)
    closes = gap > 2 * gap_error and gap > 0
    near = {name: _nearness(outputs["teacher"], outputs[name], weight) for name in outputs}
    loss = {name: _loss(row, weight, student.classes) for name, row in losses.items()}
    teacher_weight = student.settings.teacher_weight or 0.0
    figures = {
        "teacher": teacher_figures(teacher, frame, loss["teacher"]),
        "student": model_figures(student, frame, loss["student"]),
        "direct": model_figures(direct, frame, loss["direct"]),
    }
    return FidelityReport(
        rows=rows,
        n_rows=len(target),
        metric="rmse" if student.classes is None else "log_loss",
        agreement=near["student"][0],
        divergence=near["student"][1],
        direct_agreement=near["direct"][0],
        direct_divergence=near["direct"][1],
        gain=gain,
        gain_error=gain_error,
        gap=gap,
        gap_error=gap_error,
        gap_closed=gain / gap if closes else None,
        teacher_came_fitted=teacher_came_fitted,
        teacher_weight=teacher_weight,
        verdict=_verdict(
            loss,
            (gain, gain_error),
            gain / gap if closes else None,
            rows,
            len(target),
            "RMSE" if student.classes is None else "log-loss",
            teacher_weight,
            teacher_came_fitted,
        ),
        teacher=figures["teacher"],
        student=figures["student"],
        direct=figures["direct"],
    )


def model_figures(model: FittedModel, frame: pl.DataFrame, loss: float) -> ModelFigures:
    """Size and single-row latency of a model of ours, with a loss measured elsewhere.

    `frame`: its first row is the one that is timed.
    """
    predictor = Predictor(model)
    row = frame.row(0, named=True)
    return ModelFigures(
        loss=loss,
        n_parameters=n_parameters(model.architecture, len(model.members)),
        file_bytes=len(pack(*model.to_artifact())),
        row_us=median_us(_network_call(model, frame)),
        raw_row_us=median_us(lambda: predictor.predict_row(row)),
    )


def teacher_figures(teacher: FittedTeacher, frame: pl.DataFrame, loss: float) -> ModelFigures:
    """The same of a teacher, as far as it has such figures."""
    model = model_of(teacher)
    if model is not None:
        return model_figures(model, frame, loss)
    one = frame.head(1)
    call = encoded_call(teacher, one)
    return ModelFigures(
        loss=loss,
        row_us=None if call is None else median_us(call),
        raw_row_us=median_us(lambda: teacher.predict(one)),
    )


def n_parameters(architecture: NetworkSpec, n_members: int) -> int:
    """Trained numbers of so many networks; running statistics do not count."""
    one = sum(
        math.prod(shape)
        for name, shape in architecture.tensor_shapes().items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    return n_members * one


def median_us(call: Callable[[], object]) -> float:
    """Median time of a call in microseconds, after a few to warm up."""
    for _ in range(_WARM_CALLS):
        call()
    times: list[float] = []
    end = time.perf_counter() + _TIMED_SECONDS
    while len(times) < _WARM_CALLS or (time.perf_counter() < end and len(times) < _MOST_CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


def _network_call(model: FittedModel, frame: pl.DataFrame) -> Callable[[], object]:
    """What predicts a row that is encoded already."""
    network, trees = FoldedNetwork(model.members), model.trees
    compact = model.encoder.transform(frame.head(1))
    x = model.encoder.expand(compact)
    outputs = network.values if model.classes is None else network.probabilities
    if trees is None:
        return lambda: outputs(x)
    features = trees.features(model.encoder, compact)
    return lambda: trees.mix(outputs(x), features)


def _outputs(model: FittedModel, frame: pl.DataFrame) -> FloatArray:
    predictor = Predictor(model)
    if model.classes is None:
        return predictor.predict_values(frame)
    return predictor.predict_proba(frame)


def _loss(losses: FloatArray, weight: FloatArray, classes: NDArray[Any] | None) -> float:
    mean = float(weight @ losses)
    return math.sqrt(mean) if classes is None else mean


def _difference(
    worse: FloatArray, better: FloatArray, weight: FloatArray, classes: NDArray[Any] | None
) -> tuple[float, float]:
    """Difference of two losses over the same rows, and its standard error."""
    paired = worse - better
    mean = float(weight @ paired)
    n_rows = len(paired)
    spread = float(np.sqrt(weight**2 @ (paired - mean) ** 2))
    error = spread * math.sqrt(n_rows / (n_rows - 1)) if n_rows > 1 else math.inf
    if classes is not None:
        return mean, error
    # From squared errors to their roots: a - b = (a² - b²) / (a + b).
    total = _loss(worse, weight, None) + _loss(better, weight, None)
    return (mean / total, error / total) if total > 0 else (0.0, 0.0)


def _nearness(teacher: FloatArray, other: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """Agreement and divergence."""
    if teacher.ndim == 1:
        squares = float(weight @ (other - teacher) ** 2)
        spread = float(weight @ (teacher - weight @ teacher) ** 2)
        return (1.0 - squares / spread if spread > 0 else float(squares == 0)), math.sqrt(squares)
    same = teacher.argmax(axis=1) == other.argmax(axis=1)
    tiny = np.finfo(np.float64).tiny
    ratio = np.log(np.maximum(teacher, tiny)) - np.log(np.maximum(other, tiny))
    return float(weight @ same), float(weight @ (teacher * ratio).sum(axis=1))


def _verdict(
    loss: Mapping[str, float],
    gain: tuple[float, float],
    closed: float | None,
    rows: Rows,
    n_rows: int,
    metric: str,
    teacher_weight: float,
    teacher_came_fitted: bool,
) -> str:
    """The comparison in sentences."""
    difference, error = gain
    where = (
        f"on {n_rows:,} rows that neither the student nor the direct network saw"
        if rows == "held-out"
        else f"on the {n_rows:,} validation rows, which chose the epochs and so flatter both"
    )
    form = ",.4g" if metric == "RMSE" else ".4f"
    student, direct, teacher = (_shown(loss[k], form) for k in ("student", "direct", "teacher"))
    size = f"{_shown(abs(difference), form)} (standard error {_shown(error, form)})"
    numbers = (
        f"{where}, the student's {metric} is {student}, that of the same network trained "
        f"directly is {direct}"
    )
    if teacher_weight == 0.0:
        verdict = (
            "Distillation was not used: validation rows favoured training without a teacher. "
            f"{numbers[0].upper()}{numbers[1:]}"
        )
    elif difference > error:
        verdict = f"Distillation helped: {numbers}, higher by {size}"
    elif difference < -error:
        verdict = (
            f"Distillation made it worse: {numbers}, lower by {size}; prefer the direct training"
        )
    else:
        verdict = (
            f"Distillation made no difference that these rows can show: {numbers}, {size} apart"
        )
    beats = loss["student"] < loss["teacher"]
    verdict += f"; the teacher's is {teacher}"
    if closed is not None and closed > 1:
        verdict += ", and more than the whole gap to it is closed"
    elif closed is not None:
        verdict += f", and {100 * closed:.0f} % of the gap to it is closed"
    elif beats:
        verdict += ", which the student beats"
    verdict += "."
    if teacher_came_fitted:
        verdict += (
            " The teacher came fitted: if these rows were among its own, its figure flatters it."
        )
    return verdict


def _shown(value: float, form: str) -> str:
    """A number in a form, or one digit of it where the form leaves none."""
    text = format(value, form)
    return text if value == 0 or float(text.replace(",", "")) else f"{value:.1g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
