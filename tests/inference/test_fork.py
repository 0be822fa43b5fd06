"""A model that worked in a process works in its forked children, whose polars has no threads."""

import os
import subprocess
import sys

import pytest

from tests.packages import ROOT

CODE = """
import os, signal, sys
import numpy as np, pandas as pd, polars as pl
from tabwright import TabularClassifier, TabularRegressor
X = pl.DataFrame({"a": np.arange(100.0), "b": ["u", "v"] * 50, "c": pl.Series(range(100)) % 7})
tables = [X, X.to_pandas(), X.to_dicts(), X.to_arrow()]
for kind, y in ((TabularClassifier, ["no", "yes"] * 50), (TabularRegressor, np.arange(100.0))):
    model = kind(n_members=1, max_epochs=2, random_state=0).fit(X, y)
    predict = getattr(model, "predict_proba", model.predict)
    wanted = predict(X)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        for table in tables:
            for rows in (1, 4, 100):
                assert abs(predict(table[:rows]) - wanted[:rows]).max() < 1e-4 * abs(wanted).max()
                model.predict(table[:rows])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_predictions_survive_a_fork() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
