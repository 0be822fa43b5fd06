"""What both estimators do once they are fitted: predictor, explanations, files, HTML."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.utils import estimator_html_repr
from sklearn.utils.validation import check_is_fitted
from torch import nn

from tabwright.distillation.fidelity import FidelityReport
from tabwright.estimators.inputs import frame_as_fitted
from tabwright.estimators.messages import fit_summary
from tabwright.inference.fitted_model import FittedModel, member_modules
from tabwright.inference.pandas_row import row_cells
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings

if TYPE_CHECKING:
    from tabwright.explanation import EffectCurve, Explanation
    from tabwright.explanation.columns import Scale
    from tabwright.export.parity import ParityReport


class FittedEstimator(BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator around a `FittedModel`."""

    model_: FittedModel
    settings_: FitSettings
    # What `distill` found of the student; other fits leave it away.
    fidelity_: FidelityReport
    n_features_in_: int
    # Not of a model from a file.
    fit_seconds_: float

    @classmethod
    def from_model(cls, model: FittedModel) -> Self:
        """A fitted estimator around a model of its task."""
        # A document also names settings of before, which are no parameters to set any more.
        known = cls().get_params(deep=False).keys() & {field.name for field in fields(FitSettings)}
        values = model.settings.to_document()
        estimator = cls(**{name: value for name, value in values.items() if name in known})
        if "prior" in estimator.get_params(deep=False) and model.prior is not None:
            estimator.set_params(prior=model.prior)
        estimator._remember(model)
        return estimator

    def _remember(self, model: FittedModel) -> None:
        self.model_ = model
        self.settings_ = model.settings
        self._predictor = Predictor(model)
        self.n_features_in_ = model.encoder.n_features_in_
        if model.encoder.named:
            self.feature_names_in_ = np.asarray(model.encoder.feature_names_in_, dtype=object)

    @property
    def members_(self) -> list[nn.Module]:
        """The members as `models.py` modules, in eval mode."""
        check_is_fitted(self, "model_")
        return member_modules(self.model_)

    @property
    def history_(self) -> list[dict[str, float]]:
        """One dict of numbers per epoch."""
        check_is_fitted(self, "model_")
        return [dict(epoch) for epoch in self.model_.history]

    def _checked_frame(self, X: object) -> pl.DataFrame:
        check_is_fitted(self, "model_")
        return frame_as_fitted(X, self.model_.encoder, type(self).__name__)

    def _row(self, X: object) -> dict[str, Any] | None:
        """The cells of a pandas frame of one row, which needs no frame of ours; else None."""
        check_is_fitted(self, "model_")
        return row_cells(X) if self.model_.encoder.named else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one `.safetensors` file, which `load_model` reads.

        Raises
        ------
        OSError
            If it cannot be written; an old file of that name stays whole.
        """
        check_is_fitted(self, "model_")
        self.model_.save(path)

    def explain(
        self,
        X: Any,
        background: Any = None,
        *,
        scale: Scale = "probability",
        max_background: int = 100,
        n_permutations: int = 10,
        random_state: int = 0,
        on_message: Callable[[str], None] | None = None,
    ) -> Explanation:
        """Attribute the predictions of rows to the raw columns.

        Parameters
        ----------
        X : table of shape (n_rows, n_features)
            Rows to explain.
        background : table, optional
            Rows that say what is usual, for example those of training; by default `X` itself.
        scale, max_background, n_permutations, random_state, on_message
            As in `tabwright.explanation.explain`.

        Returns
        -------
        Explanation
        """
        from tabwright.explanation import explain

        frame = self._checked_frame(X)
        return explain(
            self.model_,
            frame,
            None if background is None else self._checked_frame(background),
            scale=scale,
            max_background=max_background,
            n_permutations=n_permutations,
            random_state=random_state,
            on_message=on_message,
        )

    def effect_curves(
        self,
        X: Any,
        columns: Sequence[str] | None = None,
        *,
        scale: Scale = "probability",
        n_points: int = 20,
        max_rows: int = 200,
        random_state: int = 0,
    ) -> tuple[EffectCurve, ...]:
        """Say how the output moves with single columns.

        Parameters
        ----------
        X : table of shape (n_rows, n_features)
            Rows to average over.
        columns : sequence of str, optional
            By default all that the model uses.
        scale, n_points, max_rows, random_state
            As in `tabwright.explanation.effect_curves`.

        Returns
        -------
        tuple of EffectCurve
        """
        from tabwright.explanation import effect_curves

        return effect_curves(
            self.model_,
            self._checked_frame(X),
            columns,
            scale=scale,
            n_points=n_points,
            max_rows=max_rows,
            random_state=random_state,
        )

    def export_onnx(
        self, path: str | os.PathLike[str], *, check_rows: int = 100_000
    ) -> ParityReport:
        """Write the model as one ONNX graph, from raw columns to predictions.

        Parameters
        ----------
        path : str or path-like
        check_rows : int, default=100_000
            Rows on which the graph is compared with the model before it is written.

        Returns
        -------
        ParityReport
            How well they agree. What the graph's inputs are: see `tabwright.export_onnx`.

        Raises
        ------
        ParityError
            If they do not; no file is left.
        ImportError
            If the extra `onnx` is not installed.
        OSError
            If it cannot be written.
        """
        check_is_fitted(self, "model_")
        from tabwright.export.onnx import export_onnx

        return export_onnx(self.model_, path, check_rows=check_rows)

    def _html_repr(self) -> str:
        """What a notebook shows: of a fit task, rows, scores and time, then the parameters."""
        shown: str = estimator_html_repr(self)
        if not hasattr(self, "model_"):
            return shown
        summary = fit_summary(self.model_, getattr(self, "fit_seconds_", None))
        lines = "".join(
            f'<tr><th style="text-align: left">{html.escape(name)}</th>'
            f'<td style="text-align: left">{html.escape(value)}</td></tr>'
            for name, value in summary.items()
        )
        return f"<table>{lines}</table>{shown}"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags
