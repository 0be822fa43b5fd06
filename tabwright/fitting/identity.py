"""What must be the same for a run to go on from a checkpoint."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from tabwright._version import __version__
from tabwright.artifact.container import pack
from tabwright.encoding.encoder import TableEncoder
from tabwright.fitting.networks import training_device
from tabwright.settings import FitSettings
from tabwright.training.engine.compiled_kernels import engine_name

__all__ = ["run_identity"]


def run_identity(
    settings: FitSettings, encoder: TableEncoder, class_weights: np.ndarray | None
) -> dict[str, str]:
    """What must be the same for a run to go on from a checkpoint, apart from its rows."""
    return {f"settings.{name}": repr(value) for name, value in settings.to_document().items()} | {
        "torch": str(torch.__version__),
        "tabwright": __version__,
        "engine": engine_name() if training_device(settings).type == "cpu" else "torch",
        "encoder": hashlib.blake2b(pack(*encoder.to_state()), digest_size=16).hexdigest(),
        "class weights": repr(None if class_weights is None else class_weights.tolist()),
    }
