"""`ResidualScale`: how far predictions of a regression are off, row by row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tabwright.artifact.schema import prefixed
from tabwright.inference.network_spec import NetworkSpec, take_member
from tabwright.inference.numpy_network import FoldedNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tabwright.artifact.schema import Reader, TensorBag
    from tabwright.encoding.encoder import Compact
    from tabwright.encoding.layout import Layout

    FloatArray = NDArray[np.float64]

__all__ = ["LARGEST_LOG_SCALE", "ResidualScale"]

# An interval is at most so many times, as a logarithm, as wide or narrow as the mean one: what a
# small network says beyond is no estimate.
LARGEST_LOG_SCALE = 3.0


@dataclass(frozen=True, eq=False)
class ResidualScale:
    """A small network that puts out the logarithm of a row's expected absolute residual.

    Parameters
    ----------
    architecture : NetworkSpec
    member : dict of str to ndarray
        Its `state_dict`.
    unit : float
        The mean absolute residual, in the target's unit, of which the network puts out multiples.
    """

    architecture: NetworkSpec
    member: dict[str, NDArray[Any]]
    unit: float

    def network(self, layout: Layout | None = None) -> FoldedNetwork:
        """The network, ready to run on encoded rows where the layout is given."""
        return FoldedNetwork([self.member], layout)

    def restore(self, outputs: FloatArray) -> FloatArray:
        """Expected absolute residuals in the target's unit from outputs of shape (n,)."""
        scales: FloatArray = self.unit * np.exp(
            np.clip(outputs, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
        )
        return scales

    def predict(self, network: FoldedNetwork, compact: Compact) -> FloatArray:
        """Expected absolute residuals of encoded rows, of shape (n,)."""
        return self.restore(network.values(compact))

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays that `from_state` reads."""
        document = {"architecture": asdict(self.architecture), "unit": self.unit}
        return document, prefixed("member.", self.member)

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag, input_dim: int) -> ResidualScale:
        """Read the scale of a saved model.

        Raises
        ------
        ArtifactError
            Unknown keys, an architecture of other inputs or outputs, tensors that do not fit it.
        """
        architecture = NetworkSpec.from_document(document.child("architecture"))
        if (architecture.input_dim, architecture.output_dim) != (input_dim, 1):
            raise document.fail("architecture", f"of {input_dim} inputs and one output")
        unit = document.number("unit", low=0.0)
        if unit == 0:
            raise document.fail("unit", "above 0")
        document.done()
        member = take_member(tensors.scoped("member."), architecture.tensor_shapes())
        return cls(architecture, member, unit)
