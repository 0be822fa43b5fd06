"""The networks, one factory, and the helpers that read a network's settings off itself.

Here live the four architectures, `build_model`, `compute_loss`, `compute_class_weights` and the
introspection helpers; how a network is trained or stored lives elsewhere. The module imports torch
and the standard library only. The names of the layers are the keys of every saved model.
"""

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

__all__ = [
    "MLP",
    "LinearBaseline",
    "ResidualBlock",
    "TabResNet",
    "TrainingMode",
    "build_model",
    "compute_class_weights",
    "compute_loss",
    "model_dropout",
    "model_hidden_dim",
    "model_num_hidden_layers",
    "model_training_mode",
]

TrainingMode = Literal[
    "mlp_dense",
    "linear_glm_baseline",
    "tabresnet",
    "imbalance_aware",
    "calibrated_classifier",
    "tree_teacher_distillation",
]

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)

# ---------------------------------------------------------------------------------------------
# Checks of arguments
# ---------------------------------------------------------------------------------------------


def _as_integer(name: str, value: Any, rule: str) -> int:
    try:
        if isinstance(value, bool | Tensor):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be {rule}; got {value!r}") from None


def _as_size(name: str, value: Any) -> int:
    rule = "an integer of at least 1"
    size = _as_integer(name, value, rule)
    if size < 1:
        raise ValueError(f"{name} must be {rule}; got {size}")
    return size


def _as_depth(value: Any) -> int:
    return max(1, _as_integer("num_hidden_layers", value, "an integer (below 1 means 1)"))


def _as_rate(value: Any) -> float:
    rate = float(value) if isinstance(value, Real) else math.nan
    if not rate < 1.0:  # also catches NaN
        raise ValueError(f"dropout must be a number below 1 (0 or less means none); got {value!r}")
    return rate


def _check_batch(x: Tensor) -> None:
    if x.ndim != 2:
        raise ValueError(
            f"the input must be 2-D, (batch, features); got shape {tuple(x.shape)}; "
            "pass one row as x.unsqueeze(0)"
        )


# ---------------------------------------------------------------------------------------------
# Architectures
# ---------------------------------------------------------------------------------------------


class MLP(nn.Module):
    """Fully connected network: `[Linear → BatchNorm1d → ReLU (→ Dropout)] × depth → Linear`.

    The layers stand in one flat `nn.Sequential`, `net`. They carry names rather than positions,
    so that the keys of a `state_dict` do not depend on the dropout.

    Parameters
    ----------
    input_dim : int
        Features of one row, at least 1.
    output_dim : int
        Outputs of one row, at least 1.
    hidden_dim : int
        Width of every hidden layer, at least 1.
    num_hidden_layers : int
        Hidden blocks; below 1 means 1.
    dropout : float
        Rate after each ReLU, below 1; at or below 0 the network has no dropout layer.

    Raises
    ------
    ValueError
        If an argument lies outside the range above or is not a number of that kind.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        hidden_dim: int,
        num_hidden_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = _as_size("input_dim", input_dim)
        output_dim = _as_size("output_dim", output_dim)
        hidden_dim = _as_size("hidden_dim", hidden_dim)
        depth = _as_depth(num_hidden_layers)
        rate = _as_rate(dropout)

        self.net = nn.Sequential()
        for i in range(1, depth + 1):
            self.net.add_module(f"linear{i}", nn.Linear(width, hidden_dim))
            self.net.add_module(f"norm{i}", nn.BatchNorm1d(hidden_dim))
            self.net.add_module(f"relu{i}", nn.ReLU())
            if rate > 0.0:
                self.net.add_module(f"dropout{i}", nn.Dropout(rate))
            width = hidden_dim
        self.net.add_module("head", nn.Linear(width, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs (logits, or values in regression).

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype (float32 by default)

        Returns
        -------
        Tensor of shape (batch, output_dim), of the parameters' dtype

        Raises
        ------
        ValueError
            If `x` is not 2-D; in training mode also if the batch has one row, since batch
            normalisation needs two.
        """
        _check_batch(x)
        outputs: Tensor = self.net(x)
        return outputs


class LinearBaseline(nn.Module):
    """A single linear layer: a generalised linear model, the yardstick of the deeper networks.

    Parameters
    ----------
    input_dim : int
        Features of one row, at least 1.
    output_dim : int
        Outputs of one row, at least 1.

    Raises
    ------
    ValueError
        If a size is not an integer of at least 1.
    """

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        input_dim = _as_size("input_dim", input_dim)
        output_dim = _as_size("output_dim", output_dim)
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs (logits, or values in regression).

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype (float32 by default)

        Returns
        -------
        Tensor of shape (batch, output_dim), of the parameters' dtype

        Raises
        ------
        ValueError
            If `x` is not 2-D.
        """
        _check_batch(x)
        outputs: Tensor = self.linear(x)
        return outputs


class ResidualBlock(nn.Module):
    """`Linear → BatchNorm1d → ReLU → Dropout → Linear → BatchNorm1d → (+ input) → ReLU`.

    After K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition",
    2016, section 3, with linear layers in place of convolutions and dropout between them.

    Parameters
    ----------
    hidden_dim : int
        Width of the input, of the output and of all between, at least 1.
    dropout : float
        Rate between the two layers, below 1; at or below 0 an `nn.Identity` stands there.

    Raises
    ------
    ValueError
        If an argument lies outside the range above or is not a number of that kind.
    """

    def __init__(self, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        hidden_dim = _as_size("hidden_dim", hidden_dim)
        rate = _as_rate(dropout)
        self.linear1 = nn.Linear(hidden_dim, hidden_dim)
        self.norm1 = nn.BatchNorm1d(hidden_dim)
        self.relu1 = nn.ReLU()
        self.dropout = nn.Dropout(rate) if rate > 0.0 else nn.Identity()
        self.linear2 = nn.Linear(hidden_dim, hidden_dim)
        self.norm2 = nn.BatchNorm1d(hidden_dim)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Transform the input and add it to the result.

        Parameters
        ----------
        x : Tensor of shape (batch, hidden_dim), of the parameters' dtype (float32 by default)

        Returns
        -------
        Tensor of shape (batch, hidden_dim), of the parameters' dtype

        Raises
        ------
        ValueError
            If `x` is not 2-D; in training mode also if the batch has one row.
        """
        _check_batch(x)
        hidden = self.dropout(self.relu1(self.norm1(self.linear1(x))))
        outputs: Tensor = self.relu2(self.norm2(self.linear2(hidden)) + x)
        return outputs


class TabResNet(nn.Module):
    """Residual network: `Linear → BatchNorm1d → ReLU → [ResidualBlock] × depth → Linear`.

    Parameters
    ----------
    input_dim : int
        Features of one row, at least 1.
    output_dim : int
        Outputs of one row, at least 1.
    hidden_dim : int
        Width of the projection and of every block, at least 1.
    num_hidden_layers : int
        Residual blocks; below 1 means 1.
    dropout : float
        Rate inside each block, below 1; at or below 0 means none.

    Raises
    ------
    ValueError
        If an argument lies outside the range above or is not a number of that kind.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        hidden_dim: int,
        num_hidden_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        input_dim = _as_size("input_dim", input_dim)
        output_dim = _as_size("output_dim", output_dim)
        hidden_dim = _as_size("hidden_dim", hidden_dim)
        depth = _as_depth(num_hidden_layers)
        rate = _as_rate(dropout)

        self.input_projection = nn.Linear(input_dim, hidden_dim)
        self.input_norm = nn.BatchNorm1d(hidden_dim)
        self.input_relu = nn.ReLU()
        self.blocks = nn.Sequential(*(ResidualBlock(hidden_dim, rate) for _ in range(depth)))
        self.head = nn.Linear(hidden_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs (logits, or values in regression).

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype (float32 by default)

        Returns
        -------
        Tensor of shape (batch, output_dim), of the parameters' dtype

        Raises
        ------
        ValueError
            If `x` is not 2-D; in training mode also if the batch has one row.
        """
        _check_batch(x)
        hidden = self.input_relu(self.input_norm(self.input_projection(x)))
        outputs: Tensor = self.head(self.blocks(hidden))
        return outputs


# ---------------------------------------------------------------------------------------------
# Factory
# ---------------------------------------------------------------------------------------------


def build_model(
    input_dim: int,
    output_dim: int,
    training_mode: TrainingMode,
    hidden_dim: int,
    num_hidden_layers: int,
    dropout: float,
) -> nn.Module:
    """Build the network that a training mode uses, with fresh weights, in training mode.

    Parameters
    ----------
    input_dim : int
        Features of one row, at least 1.
    output_dim : int
        Outputs of one row, at least 1: the number of classes, or 1 in regression.
    training_mode : TrainingMode
        `"linear_glm_baseline"` gives `LinearBaseline`, `"tabresnet"` gives `TabResNet`, the
        other four give `MLP`.
    hidden_dim, num_hidden_layers, dropout
        As the chosen architecture has them; `LinearBaseline` uses none of the three, and they
        are then not looked at.

    Returns
    -------
    nn.Module
        Maps (batch, input_dim) to (batch, output_dim).

    Raises
    ------
    ValueError
        If `training_mode` is none of the six, or an argument that the architecture uses is out
        of range; nothing is built then.
    """
    modes = get_args(TrainingMode)
    if not (isinstance(training_mode, str) and training_mode in modes):
        listed = ", ".join(repr(mode) for mode in modes)
        raise ValueError(f"training_mode must be one of {listed}; got {training_mode!r}")
    if training_mode == "linear_glm_baseline":
        return LinearBaseline(input_dim, output_dim)
    if training_mode == "tabresnet":
        return TabResNet(input_dim, output_dim, hidden_dim, num_hidden_layers, dropout)
    return MLP(input_dim, output_dim, hidden_dim, num_hidden_layers, dropout)


# ---------------------------------------------------------------------------------------------
# Loss and class weights
# ---------------------------------------------------------------------------------------------


def compute_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Run one forward pass and apply the criterion: `criterion(model(x), y)`.

    Parameters
    ----------
    model : nn.Module
        In the mode, training or eval, that the caller wants.
    x : Tensor of shape (batch, input_dim), of the parameters' dtype
    y : Tensor, of the shape and dtype that the criterion wants
        For `nn.CrossEntropyLoss`, class codes of shape (batch,), int64.
    criterion : callable
        From outputs of shape (batch, output_dim) and `y` to a scalar.

    Returns
    -------
    Tensor of shape (), the loss, with its graph
    """
    return criterion(model(x), y)


_LABEL_DTYPES = frozenset(
    {
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)


def compute_class_weights(
    y_train: Tensor,
    output_dim: int,
    device: torch.device | str,
) -> Tensor:
    """Compute inverse-frequency class weights: `n_samples / (n_classes * class_count)`.

    A class without a row counts as if it had one. Balanced classes all weigh exactly 1; without
    any row at all the formula gives 0. The labels are copied at most once, and only where their
    dtype or memory layout demands it.

    Parameters
    ----------
    y_train : Tensor of shape (n_samples,), of any integer dtype, on any device
        Class codes in [0, output_dim).
    output_dim : int
        Number of classes, at least 1.
    device : torch.device or str
        Where the weights shall be.

    Returns
    -------
    Tensor of shape (output_dim,), of torch's default dtype (float32 unless changed)
        On `device`.

    Raises
    ------
    TypeError
        If `y_train` is not a tensor.
    ValueError
        If the labels are of a floating, complex or boolean dtype (integral values or not), are
        not 1-D, or one of them is negative or at or past `output_dim`; if `output_dim` is not
        an integer of at least 1.
    """
    n_classes = _as_size("output_dim", output_dim)
    if not isinstance(y_train, Tensor):
        raise TypeError(
            f"y_train must be a torch.Tensor; got {type(y_train).__name__}; use torch.as_tensor"
        )
    if y_train.dtype not in _LABEL_DTYPES:
        raise ValueError(
            f"y_train must have an integer dtype; got {y_train.dtype}; "
            "pass class codes, for instance y_train.long()"
        )
    if y_train.ndim != 1:
        raise ValueError(
            f"y_train must be 1-D, (n_samples,); got shape {tuple(y_train.shape)}; "
            "pass y_train.flatten()"
        )

    counts = torch.zeros(n_classes, dtype=torch.int64)
    if y_train.numel() > 0:
        counts = torch.bincount(_as_valid_codes(y_train, n_classes), minlength=n_classes).cpu()
    # On the CPU in float64: a float32 loses counts past 2**24, and not every device has float64.
    weights = y_train.numel() / (n_classes * counts.clamp(min=1).to(torch.float64))
    return weights.to(device=device, dtype=torch.get_default_dtype())


def _as_valid_codes(y_train: Tensor, n_classes: int) -> Tensor:
    """The labels in a dtype that torch can count in, each in [0, n_classes)."""
    # torch has next to no kernels for the wide unsigned dtypes. Seen as int64, a uint64 past
    # 2**63 turns negative, which no other unsigned label does.
    wraps = y_train.dtype == torch.uint64
    if wraps:
        codes = y_train.view(torch.int64)
    elif y_train.dtype in (torch.uint16, torch.uint32):
        codes = y_train.to(torch.int64)
    else:
        codes = y_train
    codes = codes.contiguous()  # once here, or each of the two reductions copies for itself
    low, high = (int(bound) for bound in torch.aminmax(codes))
    if low < 0 and not wraps:
        raise ValueError(f"y_train must hold no negative label; got {low}")
    if low < 0:
        high = low + 2**64
    if high >= n_classes:
        raise ValueError(
            f"y_train must hold labels below output_dim={n_classes}; got {high}; "
            "encode the classes as 0, 1, ..., output_dim - 1"
        )
    return codes


# ---------------------------------------------------------------------------------------------
# Introspection: never raises, whatever it is given
# ---------------------------------------------------------------------------------------------


def model_hidden_dim(model: nn.Module) -> int:
    """Return the width of the hidden layers.

    That is `out_features` of the first `nn.Linear` in `model.modules()`: the first hidden layer
    of an `MLP`, the input projection of a `TabResNet`, the only layer of a `LinearBaseline`.

    Parameters
    ----------
    model : nn.Module
        Of any class.

    Returns
    -------
    int
        128 where there is no `nn.Linear`.
    """
    for layer in _modules_of(model, nn.Linear):
        width = _attribute(layer, "out_features")
        if isinstance(width, int):
            return width
    return 128


def model_num_hidden_layers(model: nn.Module) -> int:
    """Return the number of hidden layers, at least 1.

    Parameters
    ----------
    model : nn.Module
        Of any class.

    Returns
    -------
    int
        1 for a `LinearBaseline`; the number of blocks of a `TabResNet`; for an `MLP` the number
        of `nn.Linear` in `net` less one, for every other module the number of `nn.Linear` in
        `modules()` less one.
    """
    if isinstance(model, LinearBaseline):
        return 1
    if isinstance(model, TabResNet):
        return max(1, _length(_attribute(model, "blocks")))
    layers = _modules_of(_attribute(model, "net") if isinstance(model, MLP) else model, nn.Linear)
    return max(1, len(layers) - 1)


def model_dropout(model: nn.Module) -> float:
    """Return the dropout rate: `p` of the first `nn.Dropout` in `model.modules()`.

    Parameters
    ----------
    model : nn.Module
        Of any class.

    Returns
    -------
    float
        0.0 where there is no `nn.Dropout`, and for a `LinearBaseline`.
    """
    if isinstance(model, LinearBaseline):
        return 0.0
    for layer in _modules_of(model, nn.Dropout):
        rate = _attribute(layer, "p")
        if isinstance(rate, Real):
            return float(rate)
    return 0.0


def model_training_mode(model: nn.Module) -> TrainingMode:
    """Return a training mode that builds a network of this class.

    Four modes share the `MLP`; which of them trained a given one cannot be told from the network.

    Parameters
    ----------
    model : nn.Module
        Of any class.

    Returns
    -------
    TrainingMode
        `"linear_glm_baseline"` for a `LinearBaseline`, `"tabresnet"` for a `TabResNet`,
        `"mlp_dense"` for everything else.
    """
    if isinstance(model, LinearBaseline):
        return "linear_glm_baseline"
    if isinstance(model, TabResNet):
        return "tabresnet"
    return "mlp_dense"


def _modules_of(model: object, kind: type[_ModuleT]) -> list[_ModuleT]:
    try:
        return [module for module in model.modules() if isinstance(module, kind)]  # type: ignore[attr-defined]
    except Exception:
        return []


def _attribute(model: object, name: str) -> object:
    try:
        return getattr(model, name)
    except Exception:
        return None


def _length(value: object) -> int:
    try:
        return len(value)  # type: ignore[arg-type]
    except Exception:
        return 0
