"""What an estimator says of a fit: a line per epoch, a sentence in the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tabwright.inference.fitted_model import FittedModel
from tabwright.training.callbacks import Callback
from tabwright.training.loop import Epoch

if TYPE_CHECKING:
    from tabwright.splits import Splits


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


def fit_summary(model: FittedModel, seconds: float | None) -> str:
    """A fit in a sentence."""
    card = model.card
    target = f" of {card['target']!r}" if isinstance(card.get("target"), str) else ""
    scored = "test" if "test" in model.metrics else "validation"
    rows = "out of fold" if scored == "validation" and "folds" in card else scored
    scores = ", ".join(
        f"{name} {value:.4g}" for name, value in list(model.metrics.get(scored, {}).items())[:3]
    )
    parts = [
        f"{model.settings.task}{target} by {model.settings.training_mode}, "
        f"{len(model.members)} network(s)",
        f"{card.get('n_training_rows', 0):,} rows in {card['folds']['n_folds']} folds"
        if "folds" in card
        else f"{card.get('n_training_rows', 0):,} training and "
        f"{card.get('n_validation_rows', 0):,} validation rows",
        f"{rows} {scores}" if scores else "",
        "" if seconds is None else f"{seconds:.1f} s",
    ]
    return "; ".join(part for part in parts if part)


def splits_in_words(validation: object, splits: Splits) -> str:
    """What a model's card says of its splits."""
    # Arrays that a splitter holds would fill the file.
    name = repr(validation) if len(repr(validation)) < 200 else type(validation).__name__
    if not hasattr(validation, "split"):
        name = "a list of splits"
    return name if len(splits) == 1 else f"{name}: the last of {len(splits)} splits"
