"""Teachers by name: a tree kind, or a model file."""

from __future__ import annotations

import os

from tabwright.distillation.trees.problem import TEACHER_KINDS, TeacherKind
from tabwright.errors import nearest_name
from tabwright.inference.fitted_model import FittedModel, load_fitted


def named_teacher(name: str | os.PathLike[str]) -> TeacherKind | FittedModel:
    """The teacher of a name: a tree kind, or a model file of ours. Nothing else is loaded.

    Raises `ValueError` if it is neither; `ArtifactError` if the file is not a whole and valid model
        of ours.
    """
    for kind in TEACHER_KINDS:
        if name == kind:
            return kind
    if not os.path.isfile(name):
        hint = nearest_name(os.fspath(name), TEACHER_KINDS)
        raise ValueError(
            f"a teacher must be one of {', '.join(TEACHER_KINDS)}, or the path of a model file; "
            f"got {os.fspath(name)!r}, which is no file{hint}"
        )
    return load_fitted(name)
