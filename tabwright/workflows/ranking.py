"""Which of several cross-validated candidates is the best, how sure that is, and which to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tabwright.number_text import number_text
from tabwright.workflows.paired_differences import PairedDifference, paired_difference

_LIKELY = 0.9
# A model must be so many times smaller to be worth a word.
_SMALLER = 4.0


@dataclass(frozen=True)
class CandidateScores:
    """How one candidate did.

    `is_reference`: whether it is a tree ensemble and no mode of ours.
    `scores`: by metric, one value a fold.
    `fit_seconds`: mean over the folds, from raw columns to a model that predicts.
    `rows_per_second`: median over the folds of predicting the test rows from raw columns.
    `size_bytes`: mean size of a saved model; of an ensemble, as its library pickles it.
    `behind`: how much worse than the best it is by the metric that judges; None for the best
        itself.
    """

    name: str
    is_reference: bool
    scores: dict[str, tuple[float, ...]]
    fit_seconds: float
    rows_per_second: float
    size_bytes: int | None
    behind: PairedDifference | None = None

    def mean(self, metric: str) -> float:
        """Mean of a metric over the folds."""
        return float(np.mean(self.scores[metric]))


@dataclass(frozen=True)
class Ranking:
    """How candidates are compared.

    `metric`: the one that judges.
    `sign`: 1 where lower is better, -1 where higher is.
    `test_share`: n_test / n_train of a fold.
    """

    metric: str
    sign: float
    test_share: float

    def ranked(self, candidates: Sequence[CandidateScores]) -> tuple[CandidateScores, ...]:
        """The best first, each with how far it is behind.

        Raises `ValueError` if a candidate lacks the metric on a fold.
        """
        if any(self.metric not in candidate.scores for candidate in candidates):
            raise ValueError(
                f"the metric {self.metric} is not defined on every fold (a fold may hold one "
                "class, or one value); give fewer folds, or another metric"
            )
        best, *others = sorted(
            candidates, key=lambda candidate: self.sign * candidate.mean(self.metric)
        )
        return best, *(
            replace(candidate, behind=self.behind(candidate, best)) for candidate in others
        )

    def behind(self, one: CandidateScores, other: CandidateScores) -> PairedDifference:
        """How much worse the first is than the second; above 0 is worse, whatever the metric."""
        mine, theirs = np.array(one.scores[self.metric]), np.array(other.scores[self.metric])
        return paired_difference(self.sign * (mine - theirs), test_share=self.test_share)

    def advice(
        self, ranked: Sequence[CandidateScores], *, saves_trees: bool = False
    ) -> tuple[str, float, tuple[str, ...]]:
        """The mode to use, the probability that it beats its rival, and sentences on that.

        The rival is the next candidate, or the best reference where one comes first.
        `saves_trees`: whether such a reference's trees are saved beside the mode to use.
        """
        ours = [candidate for candidate in ranked if not candidate.is_reference]
        chosen = ours[0]
        if chosen is ranked[0]:
            rival = ranked[1]
            gap = self.behind(rival, chosen)
            probability = gap.probability_above
            sentences = [
                f"use {chosen.name}: {_sureness(probability)} better in {self.metric} than "
                f"{rival.name}, the next, by {number_text(gap.mean, 3)} (probability "
                f"{_percent(probability)})"
                if gap.mean > 0
                else f"use {chosen.name}: {rival.name}, the next, has the same {self.metric}"
            ]
        else:
            rival = ranked[0]
            gap = self.behind(chosen, rival)
            probability = 1.0 - gap.probability_above
            sentences = [
                f"{rival.name} is {_sureness(gap.probability_above)} better in {self.metric} than "
                f"{chosen.name}, the best mode of tabwright here, by {number_text(gap.mean, 3)} "
                f"(probability {_percent(gap.probability_above)})",
            ]
            if not saves_trees:
                sentences.append(f"to stay with tabwright, use {chosen.name}")
        even = [candidate for candidate in ours[1:] if not self.behind(candidate, chosen).is_clear]
        if even:
            names = ", ".join(candidate.name for candidate in even)
            sentences.append(f"not significantly different from {chosen.name}: {names}")
        small = [
            candidate
            for candidate in even
            if candidate.size_bytes
            and chosen.size_bytes
            and candidate.size_bytes * _SMALLER <= chosen.size_bytes
        ]
        if small:
            least = min(small, key=lambda candidate: candidate.size_bytes or 0)
            times = (chosen.size_bytes or 0) / (least.size_bytes or 1)
            sentences.append(f"of those, {least.name} is {times:,.0f} times smaller")
        return chosen.name, probability, tuple(sentences)


def _sureness(probability: float) -> str:
    if probability >= 0.5 + 0.95 / 2.0:
        return "surely"
    return "likely" if probability >= _LIKELY else "perhaps"


def _percent(probability: float) -> str:
    """Five folds never make anything certain."""
    return f"{100.0 * min(max(probability, 0.01), 0.99):.0f} %"
