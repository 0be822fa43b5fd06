"""Why a model answers as it does: attributions of columns, and effect curves."""

from tabwright.explanation.attributions import Explanation, explain
from tabwright.explanation.effects import EffectCurve, effect_curves

__all__ = ["EffectCurve", "Explanation", "effect_curves", "explain"]
