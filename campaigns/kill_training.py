"""Does a training run that is killed at any moment, and started again, end with the same bits?

A fit with a checkpoint after every step is killed with SIGKILL after a random time and started
again, until one start is left alone to finish; its networks, best epochs and history must be
those of a fit that nobody disturbed. Every few kills SIGTERM takes the place of SIGKILL: then the
run writes its state itself. Children are forks of a process that has loaded torch and not used
it, since loading it takes far longer than the fit.

    python -m campaigns.kill_training --kills 200
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training import steps
from tabwright.training.checkpoints import Checkpoint

_SETTINGS = FitSettings(
    task="classification",
    hidden_dim=16,
    num_hidden_layers=2,
    n_members=3,
    max_epochs=12,
    patience=4,
    batch_size=32,
    learning_rate=0.01,
    refit=True,
)


def rows(n_rows: int = 300) -> LabelledRows:
    """A small table with numbers, levels to hide, missing cells and two classes."""
    draw = np.random.default_rng(0)
    size = draw.normal(size=n_rows)
    kind = draw.choice(["red", "green", "blue"], size=n_rows)
    frame = pl.DataFrame({"size": size, "kind": kind, "noise": draw.normal(size=n_rows)})
    frame = frame.with_columns(pl.when(pl.col("noise") > 1).then(None).otherwise(pl.col("noise")))
    return LabelledRows(frame, (size + (kind == "red") + draw.normal(size=n_rows) > 0.4) * 1)


def fit(folder: Path, interval: float) -> None:
    """Fit with a checkpoint in the folder and save the model there."""
    # Short blocks of steps: kills come between many more states of a run.
    steps._MOST_BATCHES = 1
    checkpoint = Checkpoint(folder / "run.safetensors", interval)
    model = fit_table(rows(), _SETTINGS, classes=np.array(["no", "yes"]), checkpoint=checkpoint)
    model.save(folder / "model.safetensors")
    checkpoint.remove()


def start(function: Callable[[], None]) -> int:
    """Run a function in a fork; the process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        function()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def difference(
    model: FittedModel, other: FittedModel, *, history_tolerance: float = 0.0
) -> str | None:
    """What tells two models apart, times aside; None if nothing.

    Losses in the history may differ by the tolerance, relative; all else is compared to the bit.
    """
    for k, (member, twin) in enumerate(zip(model.members, other.members, strict=True)):
        for name, value in member.items():
            if value.tobytes() != twin[name].tobytes():
                return f"member {k}, {name}"
    for what in ("best_epochs", "metrics"):
        if getattr(model, what) != getattr(other, what):
            return what
    if len(model.history) != len(other.history):
        return "history"
    for epoch, twin_epoch in zip(model.history, other.history, strict=True):
        if epoch.keys() != twin_epoch.keys():
            return "history"
        for name, number in epoch.items():
            if name != "seconds" and not math.isclose(
                number, twin_epoch[name], rel_tol=history_tolerance
            ):
                return f"history, {name}"
    return None


def survive(folder: Path, n_kills: int, draw: random.Random, typical: float) -> int:
    """Kill a fit so often, then let it end; how many kills found it alive."""
    landed = 0
    for kill in range(n_kills):
        number = signal.SIGTERM if kill % 4 == 3 else signal.SIGKILL
        child = start(lambda: fit(folder, 0.0))
        time.sleep(draw.uniform(0, typical))
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 128 + signal.SIGTERM):
            raise AssertionError(f"a start after {kill} kills failed")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
        landed += 1
    _, status = os.waitpid(start(lambda: fit(folder, 0.0)), 0)
    if status:
        raise AssertionError(f"the last start, after {landed} kills, failed")
    return landed


def campaign(n_kills: int, seed: int, per_run: int = 5) -> int:
    """Kill runs until so many kills landed; returns how many there were.

    Raises
    ------
    AssertionError
        If a run could not go on, or ended with other bits.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        _, status = os.waitpid(start(lambda: fit(folder, 3600.0)), 0)
        if status:
            raise AssertionError("the undisturbed run failed")
        typical = time.monotonic() - began
        model = load_fitted(folder / "model.safetensors")
        landed = 0
        while landed < n_kills:
            (folder / "model.safetensors").unlink()
            # A start may get as far as the one before: later kills come when more is done.
            landed += survive(folder, min(per_run, n_kills - landed), draw, typical * 0.8)
            odd = difference(model, load_fitted(folder / "model.safetensors"))
            if odd is not None:
                raise AssertionError(f"after {landed} kills the result differs in {odd}")
            # What a write was doing when it was killed stays as a hidden file.
            left = sorted(path.name for path in folder.iterdir() if path.suffix != ".tmp")
            if left != ["model.safetensors"]:
                raise AssertionError(f"left behind: {left}")
    return landed


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if every run ended with the same bits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    landed = campaign(arguments.kills, arguments.seed)
    print(f"{landed} kills survived; every run ended with the same bits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
