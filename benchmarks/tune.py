"""Does the search find better settings than random draws of the same time, and do they hold?

    python -m benchmarks.tune run --tables mlc_churn,thyroid,credit_status,epa_mpg \
        --seconds 300 --seeds 0 --out benchmarks/results/raw/tune.jsonl
    python -m benchmarks.tune table benchmarks/results/raw/tune.jsonl

For each table and seed, on the training side of the suite's split: the search, and for the same
number of seconds uniform draws from the same space, unpruned, after the default. Reported is the
loss on the test side, which neither saw: of the default, of the best settings by each one's own
cross-validation, and of the model that `tune` gives. A run can be killed and started again: it
makes only the measurements that the file lacks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.row_splits import committed_split
from benchmarks.tables import BenchmarkTable, load_table, table_names
from tabwright.fitting.arguments import Columns
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import measure_of, score_rows
from tabwright.settings import FitSettings
from tabwright.tables import profile_table
from tabwright.tables.labelled import LabelledRows, TrainingTable
from tabwright.tuning.request import SearchName, TuneOptions
from tabwright.tuning.search import tune_table
from tabwright.tuning.space import with_values


def sides(table: BenchmarkTable, seed: int, cap: int | None) -> tuple[TrainingTable, LabelledRows]:
    """The rows to tune on, and those that judge."""
    split = committed_split(table, seed)
    if cap is not None:
        split = split.capped(cap)
    rows = LabelledRows(table.features, table.target, groups=table.group, time=table.time)
    train = rows.take(np.sort(split.train))
    classes = np.arange(table.n_classes) if table.task == "classification" else None
    numbers = np.arange(1, len(train) + 1)
    profile = profile_table(table.features)
    return TrainingTable(train, classes, table.task, numbers, profile), rows.take(split.test)


def test_loss(model: FittedModel, test: LabelledRows) -> float:
    """Log-loss, or root mean squared error."""
    scores = score_rows(Predictor(model), test.frame, test.target)
    return scores["test"][measure_of(model)]


def measured(table: BenchmarkTable, seed: int, options: argparse.Namespace) -> Iterator[Any]:
    """One line for the default, and one for each kind of search."""
    train, test = sides(table, seed, options.cap)
    default = FitSettings(task=table.task, random_state=seed)

    def loss_of(settings: FitSettings) -> float:
        model = fit_table(
            train.rows, settings, classes=train.classes, columns=Columns(profile=train.profile)
        )
        return test_loss(model, test)

    at_default = loss_of(default)
    for name in get_args(SearchName):
        found = tune_table(
            train,
            TuneOptions(
                time_limit=options.seconds,
                n_folds=options.folds,
                search=name,
                random_state=seed,
            ),
        )
        best = found.best
        at_best = at_default
        if best is not None and not best.is_default:
            at_best = loss_of(with_values(default, best.values))
        yield {
            "table": table.name,
            "seed": seed,
            "search": name,
            "seconds_asked": options.seconds,
            "seconds": found.seconds,
            "threads": torch.get_num_threads(),
            "trials": {
                state: sum(trial.state == state for trial in found.trials)
                for state in ("complete", "pruned", "cut")
            },
            "cross_validated": {
                "default": None if found.default is None else found.default.mean,
                "best": None if best is None else best.mean,
            },
            "test": {
                "default": at_default,
                "best": at_best,
                "model": test_loss(found.model, test),
            },
            "is_better": found.is_better,
            "best": None if best is None else best.values,
        }


def run(options: argparse.Namespace) -> None:
    """Measure what the file lacks."""
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {(line["table"], line["seed"], line["seconds_asked"]) for line in lines(out)}
    for name in table_names(options.tables):
        for seed in map(int, options.seeds.split(",")):
            if (name, seed, options.seconds) in known:
                continue
            # Written together: half of a pair compares nothing.
            pair = list(measured(load_table(name), seed, options))
            with out.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in pair)
            print(f"{name}, seed {seed}: done", flush=True)


def lines(path: Path) -> list[dict[str, Any]]:
    """The measurements of a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table_of(found: Sequence[dict[str, Any]]) -> str:
    """Losses on the test side relative to the default's, as Markdown."""
    rows = [
        "| table | seed | search | trials (pruned) | best | the model | significant | seconds |",
        "| --- | ---: | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    ratios: dict[str, list[tuple[float, float]]] = {}
    for line in found:
        default = line["test"]["default"]
        best, model = (line["test"][name] / default for name in ("best", "model"))
        ratios.setdefault(line["search"], []).append((best, model))
        n = line["trials"]
        rows.append(
            f"| {line['table']} | {line['seed']} | {line['search']} | "
            f"{n['complete'] + n['pruned']} ({n['pruned']}) | {best:.3f} | {model:.3f} | "
            f"{'yes' if line['is_better'] else 'no'} | {line['seconds']:.0f} |"
        )
    for search, pairs in ratios.items():
        best, model = np.exp(np.log(np.array(pairs)).mean(axis=0))
        rows.append(f"| geometric mean | | {search} | | {best:.3f} | {model:.3f} | | |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, or show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--tables", required=True)
    measure.add_argument("--seeds", default="0")
    measure.add_argument("--seconds", type=float, default=300.0)
    measure.add_argument("--folds", type=int, default=5)
    measure.add_argument("--cap", type=int)
    measure.add_argument("--out", required=True)
    measure.set_defaults(do=run)
    show = commands.add_parser("table")
    show.add_argument("file", type=Path)
    show.set_defaults(do=lambda options: print(table_of(lines(options.file))))
    options = parser.parse_args(arguments)
    options.do(options)


if __name__ == "__main__":
    main()
