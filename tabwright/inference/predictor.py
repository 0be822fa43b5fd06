"""Inference: the path that every `predict` takes, without torch.

`Predictor` puts the encoder before the folded networks and the trees, and calibration and the
class prior, or the target's scale, behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tabwright.calibration.calibrator import change_prior, prior_log_ratio
from tabwright.calibration.decisions import DecisionRule
from tabwright.calibration.quantile_shifts import shifted_quantiles
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.regression import (
    central_level,
    has_log_link,
    member_responses,
    quantile_centre_and_scale,
)

if TYPE_CHECKING:
    import polars as pl

    from tabwright.encoding.encoder import Compact
    from tabwright.inference.fitted_model import FittedModel

# Inputs of the first product made at once: they are still in the second-level cache when it reads
# them, and never all in memory.
_BLOCK_INPUTS = 2**16

FloatArray = NDArray[np.float64]


class Predictor:
    """A fitted model that predicts, from raw rows or encoded ones.

    Safe to use from several threads and after a fork, and to pickle.

    Parameters
    ----------
    model : FittedModel
    warns : bool, default=True
        Whether tables with a column of unknown levels alone give a warning.
    """

    def __init__(self, model: FittedModel, *, warns: bool = True) -> None:
        self.model = model
        self._warns = warns
        layout = model.encoder.layout
        self._network = FoldedNetwork(model.members, layout)
        self._network.limit_block(_BLOCK_INPUTS // (layout.stops[3] + 1))
        self._scale_network: FoldedNetwork | None = None
        if model.residual_scale is not None:
            self._scale_network = model.residual_scale.network(layout)
        self.prior_shift: FloatArray | None = None
        if model.settings.training_mode == "imbalance_aware" and model.class_prior is not None:
            self.prior_shift = prior_log_ratio(
                "training" if model.prior is None else model.prior,
                class_prior=model.class_prior,
                class_weights=model.class_weights,
            )

    def network(self, compact: Compact) -> FloatArray:
        """What networks and trees say, before calibration and the change of prior.

        `compact`: rows encoded by the model's encoder. They are run in blocks: memory stays
        bounded.
        Returns: (n, n_classes), or (n,), float64; probabilities, averaged over the members and the
        trees; in regression their mean in the target's own units, clamped to the range of the
        training targets (of quantiles, the one nearest to the median).
        """
        outputs = self.outputs(compact)
        return outputs if self.model.target is None else self.point(self.calibrated(outputs))

    def outputs(self, compact: Compact) -> FloatArray:
        """What `network` gives, but of a model of quantiles each level as it was fitted.

        Returns: (n, n_classes), (n,) or (n, n_levels), float64.
        """
        values, scale = self.standardised(compact), self.model.target
        return values if scale is None else scale.restore(values)

    def judged(self, compact: Compact) -> FloatArray:
        """What scores judge: calibrated probabilities, values, or a value for each quantile level.

        Returns: (n, n_classes), (n,) or (n, n_levels), float64.
        """
        return self.calibrated(self.outputs(compact))

    def point(self, values: FloatArray) -> FloatArray:
        """The value to predict for each row, of shape (n,), from values or quantiles."""
        if values.ndim == 1:
            return values
        central: FloatArray = values[:, central_level(self.model.settings.quantiles)]
        return central

    def standardised(self, compact: Compact) -> FloatArray:
        """What `network` gives, but that values are standardised, as the members are trained.

        Returns: (n, n_classes), (n,) or (n, n_levels), float64.
        """
        classifies, trees = self.model.classes is not None, self.model.trees
        network, objective = self._network, self.model.settings.objective
        if classifies:
            values = network.probabilities(compact)
        elif objective in ("squared_error", "absolute_error"):
            values = network.values(compact)
        else:
            values = member_responses(network.logits(compact), objective).mean(axis=0)
        if trees is None:
            return values
        return trees.mix(values, trees.features(self.model.encoder, compact))

    def calibrated(self, proba: FloatArray) -> FloatArray:
        """Probabilities, values or quantiles as users get them, from those of `outputs`.

        `proba`: (n, n_classes), (n,) or (n, n_levels), float64.
        Returns: the same shape; probabilities under the prior asked for (`imbalance_aware`) and
        calibrated, quantiles shifted by what held-out rows said of their levels.
        """
        target, shifts = self.model.target, self.model.quantile_shifts
        if target is not None:
            if not shifts:
                return proba
            _, scale = quantile_centre_and_scale(proba, target.scale)
            return np.clip(shifted_quantiles(proba, shifts, scale), target.low, target.high)
        if self.prior_shift is not None:
            proba = change_prior(proba, self.prior_shift)
        if self.model.calibrator is not None:
            proba = self.model.calibrator.apply(proba)
        return proba

    def predict_proba(self, frame: pl.DataFrame) -> FloatArray:
        """Class probabilities of the rows of a table.

        Parameters
        ----------
        frame : polars.DataFrame
            The columns of training, in any order.

        Returns
        -------
        ndarray of shape (n_rows, n_classes), float64
            Columns in the order of the model's classes.

        Raises
        ------
        TableError
            If the columns are not those of training, or a cell does not fit its column.
        ValueError
            For a regression model.
        """
        if self.model.classes is None:
            raise ValueError("predict_proba needs a classifier; this is a regression model")
        return self.calibrated(self._frame_outputs(frame))

    def decide(self, proba: FloatArray) -> NDArray[np.int64]:
        """Predicted classes by the decision rule stored with the model, else the most probable.

        Parameters
        ----------
        proba : ndarray of shape (n, n_classes), float64
            From `predict_proba`.

        Returns
        -------
        ndarray of shape (n,), int64
            Positions in the model's classes.
        """
        return (self.model.decision or DecisionRule()).apply(proba)

    def predict_values(self, frame: pl.DataFrame) -> FloatArray:
        """Regression values of the rows of a table.

        Parameters
        ----------
        frame : polars.DataFrame
            The columns of training, in any order.

        Returns
        -------
        ndarray of shape (n_rows,), float64

        Raises
        ------
        TableError
            If the columns are not those of training, or a cell does not fit its column.
        ValueError
            For a classifier.
        """
        if self.model.classes is not None:
            raise ValueError("predict_values needs a regression model; this is a classifier")
        return self._frame_outputs(frame)

    def predict_quantiles(
        self, frame: pl.DataFrame, levels: Sequence[float] | None = None
    ) -> FloatArray:
        """Quantiles of the target for the rows of a table; they never cross.

        Parameters
        ----------
        frame : polars.DataFrame
            The columns of training, in any order.
        levels : sequence of float, optional
            Some of the levels that the model was fitted for; all of them by default.

        Returns
        -------
        ndarray of shape (n_rows, n_levels), float64
            In the target's own units.

        Raises
        ------
        TableError
            If the columns are not those of training, or a cell does not fit its column.
        ValueError
            For a model of another objective, or a level that it was not fitted for.
        """
        settings = self.model.settings
        if settings.objective != "quantile":
            raise ValueError(
                "predict_quantiles needs a model fitted with objective='quantile'; this one is a "
                + ("classifier" if self.model.classes is not None else repr(settings.objective))
            )
        known = settings.quantiles
        if isinstance(levels, str | float | int):
            raise ValueError(
                f"levels must be a sequence, such as [{known[0]}]; got {levels!r}; put it in a list"
            )
        lacking = [level for level in levels or () if level not in known]
        if lacking:
            raise ValueError(
                f"levels must be among those of the fit, {', '.join(map(str, known))}; got "
                f"{lacking[0]!r}; fit with quantiles=... to have it"
            )
        values = self.judged(self.model.encoder.transform(frame, warns=self._warns))
        return values if levels is None else values[:, [known.index(level) for level in levels]]

    def predict_interval(self, frame: pl.DataFrame, coverage: float = 0.9) -> FloatArray:
        """Intervals around the regression values of the rows of a table.

        Parameters
        ----------
        frame : polars.DataFrame
            The columns of training, in any order.
        coverage : float, default=0.9
            Share of new rows whose value the interval shall hold, in (0, 1).

        Returns
        -------
        ndarray of shape (n_rows, 2), float64
            Lower and upper ends, in the target's own units; infinite where the held-out rows are
            too few to guarantee the coverage.

        Raises
        ------
        TableError
            If the columns are not those of training, or a cell does not fit its column.
        ValueError
            For a classifier, a coverage out of range, or a model without held-out residuals.
        """
        self.half_width(coverage)  # refuses before rows are encoded
        return self.intervals(self.model.encoder.transform(frame, warns=self._warns), coverage)

    def intervals(self, compact: Compact, coverage: float) -> FloatArray:
        """`predict_interval` of encoded rows.

        Raises `ValueError`: for a classifier, a coverage out of range, or a model without held-out
        residuals.
        """
        width = self.half_width(coverage)
        centre, scale = self.centre_and_scale(compact)
        half = np.full(len(centre), np.inf) if np.isinf(width) else width * scale
        ends = np.stack([centre - half, centre + half], axis=1)
        if has_log_link(self.model.settings.objective):
            # Counts and amounts are not below 0.
            np.maximum(ends, 0.0, out=ends)
        return ends

    def centre_and_scale(
        self, compact: Compact, outputs: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """The middles of intervals, and what half-widths are multiples of.

        `outputs`: (n,) or (n, n_levels), float64; what `outputs` gives for the rows, or what stands
        for it.
        Returns: both of shape (n,), float64.
        """
        model = self.model
        if outputs is None:
            outputs = self.outputs(compact)
        kind = "constant" if model.intervals is None else model.intervals.scale
        if kind == "quantiles":
            return quantile_centre_and_scale(
                outputs, 1.0 if model.target is None else model.target.scale
            )
        centre = self.point(outputs)
        if self._scale_network is None or model.residual_scale is None:
            return centre, np.ones(len(centre))
        return centre, model.residual_scale.predict(self._scale_network, compact)

    def half_width(self, coverage: float) -> float:
        """Half the width of the prediction intervals, in multiples of `centre_and_scale`'s scale.

        `coverage`: share of new rows whose value the interval shall hold, in (0, 1).
        Raises `ValueError`: for a classifier, a coverage out of range, or a model without held-out
        residuals.
        """
        if self.model.classes is not None:
            raise ValueError("prediction intervals need a regression model; this is a classifier")
        if self.model.intervals is None:
            raise ValueError(
                "prediction intervals need residuals of rows held out for them; this model has "
                f"none ({self.model.card.get('intervals')}); fit with more validation rows"
            )
        return self.model.intervals.half_width(coverage)

    def predict_row(self, row: Mapping[str, Any]) -> FloatArray | float:
        """One row by the shortest way: no table is built.

        Parameters
        ----------
        row : mapping of str to object
            Cell by column name.

        Returns
        -------
        ndarray of shape (n_classes,), float64, or float
            Probabilities, or the value in regression: those of a table of this row, within 1e-6.

        Raises
        ------
        TableError
            If columns are missing, or a cell does not fit its column.
        """
        outputs = self.network(self.model.encoder.row(row))
        if self.model.classes is None:
            return float(outputs[0])
        proba: FloatArray = self.calibrated(outputs)[0]
        return proba

    def predict_cells(self, cells: Mapping[str, Any]) -> FloatArray:
        """One row of a table, given as its cells.

        `cells`: from `pandas_row.row_cells`.
        Returns: (1, n_classes), or (1,), float64; what `predict_proba` or `predict_values` gives
        for the table.
        Raises `TableError` if columns are missing, or a cell does not fit its column.
        """
        outputs = self.network(self.model.encoder.cells_row(cells))
        return outputs if self.model.classes is None else self.calibrated(outputs)

    def _frame_outputs(self, frame: pl.DataFrame) -> FloatArray:
        return self.network(self.model.encoder.transform(frame, warns=self._warns))
