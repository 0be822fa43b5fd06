"""Many models at once: processes share the cores, none takes them all."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV

from tabwright import TabularClassifier
from tabwright.inference.fitted_model import FittedModel


class _Reporting(TabularClassifier):
    """Scores with the number of threads that its fit had."""

    def _remember(self, model: FittedModel) -> None:
        self.n_threads_ = torch.get_num_threads()
        super()._remember(model)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        assert torch.get_num_threads() == self.n_threads_
        return float(self.n_threads_)


@pytest.mark.slow
def test_a_search_in_processes_does_not_oversubscribe_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    n_jobs = 2
    draw = np.random.default_rng(0)
    X = draw.normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    model = _Reporting(max_epochs=1, n_members=2, hidden_dim=8, random_state=0)
    search = GridSearchCV(model, {"dropout": [0.0, 0.1]}, cv=2, n_jobs=n_jobs, refit=False)
    search.fit(X, y)
    threads = search.cv_results_["split0_test_score"]
    assert (threads >= 1).all()
    assert (threads <= max(1, (os.cpu_count() or 1) // n_jobs)).all()
