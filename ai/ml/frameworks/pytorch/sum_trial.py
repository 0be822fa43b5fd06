"""Whether networks are better with the sums of columns that the encoder found.

Rows held out have proved that the sums tell what random units of a network do not. But a network
that learns may find the same by itself, and further inputs then lead it astray: on a chessboard of
whole numbers its loss was up to 1.8 times as high with them. So two networks are trained.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ai.ml.frameworks.pytorch.features import Compact, TableEncoder
from ai.ml.frameworks.pytorch.fit_parts import LabelledRows, Targets, training_device
from ai.ml.frameworks.pytorch.member_training import train_members
from ai.ml.frameworks.pytorch.settings import FitSettings

__all__ = ["without_needless_sums"]

_MOST_ROWS = 8_000
_HELD_OUT_SHARE = 0.2
_PARTS = 20
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
    from the same seed and with the same fifth to choose its epoch and to judge it. The sums stay
    if they save 1 % of the loss, and more than its standard error over 20 parts of that fifth.
    Where there are no sums nothing is trained.

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

    parts = [part for part in np.array_split(np.arange(n_held_out), _PARTS) if len(part)]
    judges = rows.take(judging)
    device = training_device(settings)

    def losses(own: TableEncoder, encoded: Compact) -> np.ndarray:
        trained = train_members(
            replace(settings, n_members=1),
            own,
            (encoded.take(learning), rows.take(learning)),
            (encoded.take(judging), judges),
            targets,
            None,
            taught=None,
            on_epoch=None,
            checkpoint=None,
            stop_at=None,
            keep_interrupted=False,
        )
        (module,) = trained.modules
        x = torch.from_numpy(own.expand(encoded.take(judging))).to(device)
        with torch.no_grad():
            logits = module(x).unsqueeze(0)
        return np.array(
            [
                float(targets.on(judges.take(part), device).loss(logits[:, torch.from_numpy(part)]))
                for part in parts
            ]
        )

    without = losses(plain, narrow)
    gains = without - losses(encoder, compact)
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    if gains.mean() > max(_LEAST_GAIN * without.mean(), error):
        return encoder, compact
    return plain, Compact(np.ascontiguousarray(narrow.numeric), narrow.codes)
