"""Formats of the artifact: which version reads which, and what came after the first.

A format is frozen once a version that writes it is out; `tests/golden/` then keeps files of it.
The rule for whoever adds to the artifact:

- A new optional key gets a new format in `FORMATS` and a line in `ADDED`, and has a default that
  means what files without it meant. The writer leaves the key out where it holds that default
  (`left_out`), the reader fills the default in where it is missing (`may_be_missing`).
- A new value of a closed set of texts, such as another encoding, gets a line ``key=value``.
- A file says the lowest format that its content needs (`format_of`): a model that uses nothing
  new can be read by every version before, and one that does is refused there with the version to
  install.
- Nothing else may change. Keys are never taken away, renamed or given another meaning, and no key
  of format 1 becomes optional. What cannot be said by adding has to be a new key beside the old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The first version of Tabwright that reads each format.
FORMATS: dict[int, str] = {1: "0.1.0", 2: "0.2.0", 3: "0.3.0"}

# Keys of the document, and ``key=value`` of closed sets, that came after format 1: the place with
# dots from the document on ("settings.learning_rate"), to the format that brought it.
ADDED: dict[str, int] = {
    "decision.positive_class": 3,
    "encoder.obliques": 2,
    "encoder.formats": 3,
    "encoder.interactions": 3,
    "intervals.scale": 3,
    "quantile_shifts": 3,
    "residual_scale": 3,
    "settings.eval_metric": 3,
    "settings.intervals": 3,
    "settings.n_folds": 3,
    "settings.objective": 3,
    "settings.quality": 3,
    "settings.quantiles": 3,
    "target.quantiles": 3,
    "settings.time_limit": 3,
    "trees": 3,
    "trees.ensembles.form": 3,
    "trees.interactions": 3,
}


def may_be_missing(place: str) -> bool:
    """Whether a key may be missing, since there are files older than it.

    `place`: with dots, from the document on.
    """
    return place in ADDED


def left_out(place: str, value: object, default: object) -> bool:
    """Whether the writer leaves a key out: it came later and holds what its lack means."""
    return place in ADDED and value == default


def format_of(document: Mapping[str, Any]) -> int:
    """The lowest format that can say what a document says."""
    return max((form for place, form in ADDED.items() if _holds(document, place)), default=1)


def _holds(document: Mapping[str, Any], place: str) -> bool:
    path, is_value, wanted = place.partition("=")
    value: Any = document
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return not is_value or (isinstance(value, str) and value == wanted)
