"""The kinds of tree ensembles by name. Libraries are imported where they are used."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tabwright.distillation.trees.boosting_libraries import CatBoost, LightGBM, XGBoost
from tabwright.distillation.trees.oblivious import ObliviousBoosting
from tabwright.distillation.trees.problem import TEACHER_KINDS, Learner, TeacherKind
from tabwright.distillation.trees.scikit_learn import Forest, HistGradientBoosting

# Those that teach, and those that a model can have beside its networks alone.
TreeKind: TypeAlias = TeacherKind | Literal["oblivious_boosting"]


def tree_learner(kind: TreeKind, *, kept: bool = False) -> Learner:
    """The ensemble of a kind.

    `kept`: for trees that a model keeps: CatBoost takes more rounds at a smaller rate, scikit-learn
        fewer rounds where there are many classes; the others stay as they are.
    Raises `ValueError` if there is no such kind.
    Raises `ImportError` if its library is not installed; names what to install.
    """
    if kind == "oblivious_boosting":
        return ObliviousBoosting()
    if kind not in TEACHER_KINDS:
        raise ValueError(f"a teacher must be one of {', '.join(TEACHER_KINDS)}; got {kind!r}")
    learner: Learner
    if kind == "hist_gradient_boosting":
        learner = HistGradientBoosting(kept=kept)
    elif kind == "random_forest" or kind == "extra_trees":
        learner = Forest(kind)
    elif kind == "lightgbm":
        learner = LightGBM()
    elif kind == "xgboost":
        learner = XGBoost()
    else:
        learner = CatBoost(kept=kept)
    learner.versions()
    return learner


def trial_trees() -> Learner:
    """scikit-learn's boosted trees for few rounds, which compare features with one another."""
    return HistGradientBoosting.for_trials()
