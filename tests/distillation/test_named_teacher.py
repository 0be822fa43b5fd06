"""Teachers by name."""

from __future__ import annotations

import pytest

from tabwright.distillation.named_teacher import named_teacher
from tabwright.inference.fitted_model import FittedModel
from tests.golden.rows import FOLDER


def test_a_teacher_is_a_tree_kind_or_a_model_file() -> None:
    assert named_teacher("catboost") == "catboost"
    model = named_teacher(FOLDER / "0.2.0" / "regression-sums.safetensors")
    assert isinstance(model, FittedModel)
    with pytest.raises(ValueError, match=r"or the path of a model file; got 'oak', which is no f"):
        named_teacher("oak")
