"""What an estimator says of a fit: a line per epoch, a sentence in the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.tree_mix import combination_table
from tabwright.metrics import in_order
from tabwright.number_text import number_text
from tabwright.training.callbacks import Callback
from tabwright.training.loop import Epoch

if TYPE_CHECKING:
    from tabwright.splits import Splits


_SCORES_SHOWN = 3


class EpochPrinter(Callback):
    """What `verbose` shows."""

    def on_message(self, message: str) -> None:
        print(message)

    def on_epoch(self, epoch: Epoch) -> None:
        best = f"best {epoch.best_loss:.4f}"
        if not math.isnan(epoch.best_score):
            best = f"score {epoch.validation_score:.4f}, best {epoch.best_score:.4f}"
        print(
            f"{epoch.part}epoch {epoch.epoch}: train {epoch.train_loss:.4f}, "
            f"validation {epoch.validation_loss:.4f}, {best}, {epoch.seconds:.1f} s"
        )


def fit_summary(model: FittedModel, seconds: float | None) -> dict[str, str]:
    """What a notebook says of a fit: names and values; `seconds` are known after `fit` alone."""
    card = model.card
    target = f" of {card['target']!r}" if isinstance(card.get("target"), str) else ""
    scored = "test" if "test" in model.metrics else "validation"
    n_rows = f"{card.get('n_training_rows', 0):,}"
    rows = f"{n_rows} training and {card.get('n_validation_rows', 0):,} validation rows"
    scores_of = f"scores of {scored} rows"
    if "folds" in card:
        rows = f"{n_rows} in {card['folds']['n_folds']} folds"
        scores_of = scores_of if scored == "test" else "scores of rows out of fold"
    n_networks = len(model.members)
    counted = f"{n_networks} network" + ("s" if n_networks > 1 else "")
    parts = [f"{name} {weight}" for name, weight, _, _ in combination_table(card)[:-1]]
    # The first part is the networks.
    first, *trees = parts or ["networks"]
    parts = [first.replace("networks", counted), *trees]
    scores = [
        f"{name} {number_text(value)}"
        for name, value in in_order(model.metrics.get(scored, {})).items()
    ]
    summary = {
        "task": f"{model.settings.task}{target}",
        "model": f"{model.settings.training_mode}: {', '.join(parts)}",
        "rows": rows,
        scores_of: ", ".join(scores[:_SCORES_SHOWN]),
        "time": "" if seconds is None else f"{seconds:.1f} s",
    }
    return {name: value for name, value in summary.items() if value}


def splits_in_words(validation: object, splits: Splits, *, in_folds: bool) -> str:
    """What a model's card says of its splits; `in_folds`: whether each held out a fold."""
    # Arrays that a splitter holds would fill the file.
    name = repr(validation) if len(repr(validation)) < 200 else type(validation).__name__
    if not hasattr(validation, "split"):
        name = "a list of splits"
    if in_folds:
        return f"{name}: {len(splits)} folds"
    return name if len(splits) == 1 else f"{name}: the last of {len(splits)} splits"
