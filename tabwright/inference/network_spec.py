"""`NetworkSpec`: what builds a network of the contract again, and the shapes of its tensors.

Nothing loads torch unless a live `models.py` module is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.errors import ArtifactError

if TYPE_CHECKING:
    from torch import nn

    from ai.ml.frameworks.pytorch.models import TrainingMode

MemberState = dict[str, NDArray[Any]]

_ARCHITECTURES: tuple[TrainingMode, ...] = ("mlp_dense", "linear_glm_baseline", "tabresnet")
_LARGEST_DIM = 2**24


@dataclass(frozen=True)
class NetworkSpec:
    """What `build_model` needs to build a member again.

    `training_mode`: as `model_training_mode` tells it: the architecture, not the mode of the fit.
    """

    training_mode: TrainingMode
    input_dim: int
    output_dim: int
    hidden_dim: int
    num_hidden_layers: int
    dropout: float

    @classmethod
    def of(cls, model: nn.Module, *, input_dim: int, output_dim: int) -> NetworkSpec:
        """Read the architecture off a live model with the contract's introspection helpers."""
        from ai.ml.frameworks.pytorch import models

        return cls(
            training_mode=models.model_training_mode(model),
            input_dim=input_dim,
            output_dim=output_dim,
            hidden_dim=models.model_hidden_dim(model),
            num_hidden_layers=models.model_num_hidden_layers(model),
            dropout=models.model_dropout(model),
        )

    def build(self) -> nn.Module:
        """A new model of this architecture, with fresh weights."""
        from ai.ml.frameworks.pytorch import models

        return models.build_model(**asdict(self))

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in a member's `state_dict`, worked out without torch."""
        width = self.hidden_dim
        if self.training_mode == "linear_glm_baseline":
            return _linear("linear", self.input_dim, self.output_dim)
        shapes: dict[str, tuple[int, ...]] = {}
        if self.training_mode == "tabresnet":
            shapes |= _linear("input_projection", self.input_dim, width)
            shapes |= _norm("input_norm", width)
            for block in range(self.num_hidden_layers):
                for half in ("1", "2"):
                    shapes |= _linear(f"blocks.{block}.linear{half}", width, width)
                    shapes |= _norm(f"blocks.{block}.norm{half}", width)
            return shapes | _linear("head", width, self.output_dim)
        fan_in = self.input_dim
        for layer in range(1, self.num_hidden_layers + 1):
            shapes |= _linear(f"net.linear{layer}", fan_in, width)
            shapes |= _norm(f"net.norm{layer}", width)
            fan_in = width
        return shapes | _linear("net.head", fan_in, self.output_dim)

    @classmethod
    def from_document(cls, document: Reader) -> NetworkSpec:
        """Read the architecture back, every value in range."""
        architecture = cls(
            training_mode=document.choice("training_mode", _ARCHITECTURES),
            input_dim=document.integer("input_dim", low=1, high=_LARGEST_DIM),
            output_dim=document.integer("output_dim", low=1, high=_LARGEST_DIM),
            hidden_dim=document.integer("hidden_dim", low=1, high=_LARGEST_DIM),
            num_hidden_layers=document.integer("num_hidden_layers", low=1, high=10_000),
            dropout=document.number("dropout", low=0.0, high=1.0),
        )
        document.done()
        return architecture


def take_member(bag: TensorBag, shapes: Mapping[str, tuple[int, ...]]) -> MemberState:
    """The tensors of one network, each of its shape.

    Raises `ArtifactError` if one is missing, of another shape or dtype, or a variance is negative.
    """
    state = {
        name: bag.take(
            name, dtype="int64" if name.endswith("num_batches_tracked") else "float32", shape=shape
        )
        for name, shape in shapes.items()
    }
    for name, value in state.items():
        if name.endswith("running_var") and (value < 0).any():
            raise ArtifactError(f"tensor {name!r} is a variance and must not be negative")
    return state


def _linear(name: str, fan_in: int, fan_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    vectors = {
        f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return {**vectors, f"{name}.num_batches_tracked": ()}
