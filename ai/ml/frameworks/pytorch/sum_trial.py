"""Whether networks are better with the sums of columns that the encoder found.

Rows held out have proved that the sums tell what random units of a network do not. But a network
that learns may find the same by itself, and further inputs then lead it astray: on a chessboard of
whole numbers its loss was up to 1.8 times as high with them. So two networks are trained.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ai.ml.frameworks.pytorch.features import Compact, TableEncoder
from ai.ml.frameworks.pytorch.fit_parts import LabelledRows, Targets
from ai.ml.frameworks.pytorch.member_training import train_members
from ai.ml.frameworks.pytorch.settings import FitSettings

__all__ = ["without_needless_sums"]

_MOST_ROWS = 8_000
_HELD_OUT_SHARE = 0.2
# Share of the loss that the sums must save.
_LEAST_GAIN = 0.01


def without_needless_sums(
    encoder: TableEncoder,
    compact: Compact,
    rows: LabelledRows,
    targets: Targets,
    settings: FitSettings,
) -> tuple[TableEncoder, Compact]:
    """The encoder with its sums where a network with them is better, otherwise without.

    One network each is trained as the settings say, on four fifths of at most 8,000 of the rows,
    from the same seed and with the same fifth to judge it; the sums stay if they save 1 % of the
    loss at the best epoch. Where there are no sums nothing is trained.

    Parameters
    ----------
    encoder : TableEncoder
        Fitted.
    compact : Compact
        Its training rows.
    rows : LabelledRows
        The same rows.
    targets : Targets
    settings : FitSettings
        Resolved.

    Returns
    -------
    encoder : TableEncoder
    compact : Compact
    """
    n_sums = len(encoder.plan_.obliques)
    if not n_sums:
        return encoder, compact
    plain, narrow = encoder.without_sums(), Compact(compact.numeric[:, :-n_sums], compact.codes)
    drawn = np.random.default_rng((settings.random_state, _MOST_ROWS)).permutation(len(rows))
    drawn = drawn[:_MOST_ROWS]
    n_held_out = max(1, round(_HELD_OUT_SHARE * len(drawn)))
    judging, learning = drawn[:n_held_out], drawn[n_held_out:]

    def loss(own: TableEncoder, encoded: Compact) -> float:
        trained = train_members(
            replace(settings, n_members=1),
            own,
            (encoded.take(learning), rows.take(learning)),
            (encoded.take(judging), rows.take(judging)),
            targets,
            None,
            taught=None,
            on_epoch=None,
            checkpoint=None,
            stop_at=None,
            keep_interrupted=False,
        )
        return trained.history[-1].best_loss

    if loss(encoder, compact) < (1 - _LEAST_GAIN) * loss(plain, narrow):
        return encoder, compact
    return plain, Compact(np.ascontiguousarray(narrow.numeric), narrow.codes)
