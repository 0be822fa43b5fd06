"""One training run of a table in memory: members, objective and rows put together.

Rows come here encoded, targets prepared and settings resolved; what is fitted before, and what
becomes of the members afterwards, is `fitting/fit_table.py`'s affair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tabwright.calibration.intervals import CrossPredictions
from tabwright.distillation.soft_targets import Candidates, SoftTargets
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.fitting.networks import member_seeds, new_network, run_identity, training_device
from tabwright.fitting.targets import Targets, epoch_score
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training.batches import HeldOutRows, Inputs, MemoryRows
from tabwright.training.checkpoints import Checkpoint, Checkpointer
from tabwright.training.loop import Epoch, Trained, members_of, train
from tabwright.training.objectives import Objective, row_weights
from tabwright.training.time_limit import TimeLimit

_LEAST_PATIENCE = 6


@dataclass(frozen=True)
class RunControl:
    """What watches a training run, and what ends it besides its settings.

    `keep_interrupted`: whether a keyboard interrupt ends the run with the best networks so far.
    """

    on_epoch: Callable[[Epoch], None] | None = None
    checkpoint: Checkpoint | None = None
    stop_at: Sequence[int] | None = None
    keep_interrupted: bool = True
    limit: TimeLimit | None = None


def train_members(
    settings: FitSettings,
    encoder: TableEncoder,
    training: tuple[Compact, LabelledRows],
    held_out: tuple[Compact, LabelledRows] | None,
    targets: Targets,
    cross: CrossPredictions | None = None,
    *,
    distilled: tuple[SoftTargets, Candidates] | None = None,
    control: RunControl | None = None,
) -> Trained:
    """Train the members, or those of every candidate of a group.

    `training`: the encoded training rows and their targets.
    `held_out`: the rows that choose each member's epoch; None: members end at the `stop_at` of
        `control`.
    `cross`: keeps predictions of the held-out rows for prediction intervals.
    `distilled`: a teacher's labels, and what is tried with them; candidates stand one after the
        other among the members.
    Raises `ValueError` if the settings are not resolved.
    """
    control = control or RunControl()
    device = training_device(settings)
    if settings.n_members is None or settings.batch_size is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    seeds = member_seeds(settings.random_state, settings.n_members)
    compact, rows = training
    batch_size = settings.batch_size
    modules = [
        new_network(settings, encoder.input_dim, targets.output_dim, seed, targets.first_outputs)
        for seed in seeds
    ]
    if distilled is None:
        objective = targets.on(rows, device)
    else:
        soft_targets, candidates = distilled
        objective = _distilled_objective(
            targets, rows, soft_targets, candidates, settings.n_members, device
        )
        # Candidates differ in what they are taught alone: first weights and dropout are the same.
        modules, seeds = modules * len(candidates.weights), seeds * len(candidates.weights)
        more = soft_targets.extra_rows(augmented=candidates.augmented)
        if soft_targets.extra is not None and more.start < more.stop:
            compact = compact.with_rows(encoder.transform(soft_targets.extra[more]))
            settings = _same_steps(settings, len(compact) / len(rows))
    members = members_of(
        [module.to(device) for module in modules],
        seeds=seeds,
        n_threads=torch.get_num_threads(),
        precision=settings.precision,
    )
    checkpointer = None
    if control.checkpoint is not None:
        checkpointer = Checkpointer(
            control.checkpoint if held_out is not None else control.checkpoint.of_refit(),
            _identity(settings, encoder, targets, (compact, rows), held_out)
            | _distilled_identity(distilled),
        )
    chooser = None
    if held_out is not None:
        chooser = HeldOutRows(
            Inputs(encoder, held_out[0], device),
            epoch_score(settings, targets, held_out[1], device, cross),
            cross,
        )
    return train(
        members,
        MemoryRows(
            Inputs(encoder, compact, device, settings.hide_rate),
            objective,
            batch_size,
            settings.random_state,
        ),
        chooser,
        settings,
        on_epoch=control.on_epoch,
        checkpointer=checkpointer,
        stop_at=control.stop_at,
        keep_interrupted=control.keep_interrupted,
        limit=control.limit,
    )


def _distilled_objective(
    targets: Targets,
    rows: LabelledRows,
    soft_targets: SoftTargets,
    candidates: Candidates,
    n_members: int,
    device: torch.device,
) -> Objective:
    """The objective over the training rows and those without a target behind them."""
    codes = None if targets.scale else rows.target
    weights = row_weights(codes, rows.weight, targets.class_weights, len(rows))
    target: NDArray[Any] = rows.target
    labels: NDArray[Any] = soft_targets.labels
    labelled = None
    extra = soft_targets.extra_rows(augmented=candidates.augmented)
    if soft_targets.extra_labels is not None and extra.start < extra.stop:
        n_extra = extra.stop - extra.start
        labels = np.concatenate([labels, soft_targets.extra_labels[extra]])
        # Any target in range: the objective does not look at it.
        target = np.concatenate([target, np.repeat(target[:1], n_extra)])
        labelled = torch.arange(len(target), device=device) < len(rows)
        if weights is not None and soft_targets.extra_weight is not None:
            weights = np.concatenate([weights, soft_targets.extra_weight[extra]])
    if targets.scale is not None:
        scale = targets.scale
        target, labels = scale.standardise(target), scale.standardise(labels)
    return Objective(
        targets=torch.from_numpy(np.ascontiguousarray(target)).to(device),
        weights=None
        if weights is None
        else torch.from_numpy(weights.astype(np.float32)).to(device),
        soft_targets=torch.from_numpy(labels.astype(np.float32)).to(device),
        teacher_weight=_per_member(candidates.weights, n_members, device),
        temperature=_per_member(candidates.temperatures, n_members, device),
        labelled=labelled,
    )


def _same_steps(settings: FitSettings, growth: float) -> FitSettings:
    """Fewer of the longer epochs that rows without a target make."""
    if settings.max_epochs is None:
        return settings
    patience = settings.patience
    return replace(
        settings,
        max_epochs=max(1, round(settings.max_epochs / growth)),
        patience=None if patience is None else max(_LEAST_PATIENCE, round(patience / growth)),
    )


def _per_member(values: Sequence[float], n_members: int, device: torch.device) -> Tensor:
    """One value per candidate, for each of its members."""
    return torch.tensor(values, dtype=torch.float32, device=device).repeat_interleave(n_members)


def _identity(
    settings: FitSettings,
    encoder: TableEncoder,
    targets: Targets,
    *parts: tuple[Compact, LabelledRows] | None,
) -> dict[str, str]:
    """What must be the same for a run to go on from a checkpoint."""
    identity = run_identity(settings, encoder, targets.class_weights)
    for name, part in zip(("training rows", "validation rows"), parts, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        if part is not None:
            compact, rows = part
            for array in (compact.numeric, compact.codes, rows.target, rows.weight):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        identity[name] = digest.hexdigest()
    return identity


def _distilled_identity(distilled: tuple[SoftTargets, Candidates] | None) -> dict[str, str]:
    if distilled is None:
        return {}
    soft_targets, candidates = distilled
    digest = hashlib.blake2b(soft_targets.labels.tobytes(), digest_size=16)
    for array in (soft_targets.extra_labels, soft_targets.extra_weight):
        digest.update(b"-" if array is None else array.tobytes())
    return {"teacher's labels": digest.hexdigest(), "candidates": repr(candidates)}
