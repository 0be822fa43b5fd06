"""Networks of a run: where they train, their seeds, their arrays, and what identifies the run."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import torch
from torch import nn

from ai.ml.frameworks.pytorch.models import build_model
from tabwright._version import __version__
from tabwright.artifact.container import pack
from tabwright.encoding.encoder import TableEncoder
from tabwright.settings import FitSettings
from tabwright.training.engine.compiled_kernels import engine_name

_one_at_a_time = threading.Lock()


def new_network(
    settings: FitSettings,
    input_dim: int,
    output_dim: int,
    seed: int,
    first_outputs: np.ndarray | None = None,
) -> nn.Module:
    """A fresh network whose outputs begin about `first_outputs`, of shape (output_dim,), or 0.

    torch's own generator is left as it was.
    """
    width, depth, dropout = settings.hidden_dim, settings.num_hidden_layers, settings.dropout
    if width is None or depth is None or dropout is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    # Fits may run in several threads, and modules draw from the one generator of the process.
    with _one_at_a_time:
        before = torch.default_generator.get_state()
        try:
            # Not torch.manual_seed, which would seed the generators of CUDA devices too.
            torch.default_generator.manual_seed(seed)
            module = build_model(
                input_dim, output_dim, settings.training_mode, width, depth, dropout
            )
            # The process may have another default.
            module = module.float()
        finally:
            torch.default_generator.set_state(before)
    if first_outputs is not None:
        *_, head = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
        with torch.no_grad():
            head.bias.add_(torch.from_numpy(first_outputs))
    return module


def training_device(settings: FitSettings) -> torch.device:
    """Where the networks train.

    Raises `ValueError` if the machine lacks the device that the settings ask for.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' needs a CUDA device, and there is none; use device='auto'")
    is_cuda = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if is_cuda else "cpu")


def member_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy().copy() for name, value in module.state_dict().items()}


def member_seeds(random_state: int, n_members: int) -> list[int]:
    """A seed per member, which depends on its index and never on how many members there are."""
    return [
        int(np.random.SeedSequence([random_state, member]).generate_state(1)[0])
        for member in range(n_members)
    ]


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
