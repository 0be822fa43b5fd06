"""The size of a student, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tabwright.distillation.fidelity import median_us, n_parameters
from tabwright.inference.fitted_model import FittedModel, member_modules
from tabwright.inference.network_spec import NetworkSpec
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.settings import FitSettings

# A narrower student is tried only where no other fits the budget.
NARROWEST: Final = 16
WIDTHS: Final = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_MORE_DROPOUT: Final = 0.05
_MOST_DROPOUT: Final = 0.5


@dataclass(frozen=True)
class Budget:
    """What a student may cost; None: as much as the rule for its size gives.

    `max_parameters`: trained numbers over all members.
    `max_latency_us`: of one row from encoded inputs to the prediction, in microseconds, measured
        here and now.
    """

    max_parameters: int | None = None
    max_latency_us: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_parameters", "max_latency_us"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not value > 0):
                raise ValueError(f"{name} must be a number above 0, or None; got {value!r}")

    def allows(self, size: StudentSize, input_dim: int, output_dim: int, n_members: int) -> bool:
        """Whether a student of this size keeps to it."""
        architecture = size.architecture(input_dim, output_dim)
        if (
            self.max_parameters is not None
            and n_parameters(architecture, n_members) > self.max_parameters
        ):
            return False
        return self.max_latency_us is None or (
            latency_us(architecture, n_members) <= self.max_latency_us
        )


@dataclass(frozen=True)
class StudentSize:
    """Width, depth and dropout of a student."""

    hidden_dim: int
    num_hidden_layers: int
    dropout: float

    def architecture(self, input_dim: int, output_dim: int) -> NetworkSpec:
        """The network of this size."""
        return NetworkSpec(
            training_mode="mlp_dense",
            input_dim=input_dim,
            output_dim=output_dim,
            hidden_dim=self.hidden_dim,
            num_hidden_layers=self.num_hidden_layers,
            dropout=self.dropout,
        )

    def within(
        self, budget: Budget, input_dim: int, output_dim: int, n_members: int
    ) -> StudentSize | None:
        """The largest size up to this one that a budget allows; None if none does.

        Depth goes before width, down to 16; only then width goes on to 4.
        """
        if budget.allows(self, input_dim, output_dim, n_members):
            return self
        for narrowest in (NARROWEST, WIDTHS[0]):
            for depth in range(self.num_hidden_layers, 0, -1):
                widths = [w for w in WIDTHS if narrowest <= w <= self.hidden_dim]
                # The cost rises with the width: the last one allowed is found by halving.
                low, high = 0, len(widths)
                while low < high:
                    middle = (low + high) // 2
                    size = replace(self, hidden_dim=widths[middle], num_hidden_layers=depth)
                    if budget.allows(size, input_dim, output_dim, n_members):
                        low = middle + 1
                    else:
                        high = middle
                if low:
                    return replace(self, hidden_dim=widths[low - 1], num_hidden_layers=depth)
        return None


def student_size(teacher: FittedModel | None, settings: FitSettings, *, n_rows: int) -> StudentSize:
    """The size of a student: what the settings say, and the rule for what they leave open.

    `teacher`: A network: half its width but at least 16, a layer fewer but at least 1, and where
        the settings have the default dropout a little more than the teacher's, up to 0.5; by the
        contract's introspection helpers. None: a teacher of another kind, and the mode's own size.
    `settings`: not resolved.
    `n_rows`: training rows.
    """
    hidden_dim, depth, dropout = (
        settings.hidden_dim,
        settings.num_hidden_layers,
        settings.dropout,
    )
    if teacher is not None:
        # Not at the top: a budget is checked before PyTorch is loaded.
        from ai.ml.frameworks.pytorch import models

        module = member_modules(teacher)[0]
        hidden_dim = hidden_dim or max(NARROWEST, models.model_hidden_dim(module) // 2)
        depth = models.model_num_hidden_layers(module) - 1 if depth is None else depth
        if dropout is None:
            dropout = min(_MOST_DROPOUT, round(models.model_dropout(module) + _MORE_DROPOUT, 6))
    resolved = settings.resolved(n_rows=n_rows)
    hidden_dim = hidden_dim or resolved.hidden_dim or NARROWEST
    depth = resolved.num_hidden_layers if depth is None else depth
    dropout = resolved.dropout if dropout is None else dropout
    return StudentSize(hidden_dim, max(1, depth or 1), dropout or 0.0)


def latency_us(architecture: NetworkSpec, n_members: int) -> float:
    """Time of one row, with weights that mean nothing."""
    rng = np.random.default_rng(0)
    states: list[dict[str, Any]] = [
        {
            name: rng.random(shape, dtype=np.float32) + 0.5
            for name, shape in architecture.tensor_shapes().items()
        }
        for _ in range(n_members)
    ]
    network = FoldedNetwork(states)
    x = rng.standard_normal((1, architecture.input_dim)).astype(np.float32)
    if architecture.output_dim == 1:
        return median_us(lambda: network.values(x))
    return median_us(lambda: network.probabilities(x))
