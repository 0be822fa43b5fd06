"""From result lines to tables: relative loss, paired differences, wins, times, as Markdown.

The loss is log-loss or RMSE. Everything is paired: a contender and the reference on the same rows
with the same seed. Ratios are averaged in logs, seeds first, so that every table counts the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.result_lines import Line, key_of

Pair = tuple[str, int]
Results = dict[str, dict[Pair, Line]]


def loss_of(line: Line) -> float:
    """Log-loss or RMSE of a line."""
    scores: dict[str, float] = line["scores"]
    return scores["log_loss"] if "log_loss" in scores else scores["rmse"]


def newest_results(lines: Sequence[Line]) -> Results:
    """Per contender, its newest code's line for each table and seed.

    A contender whose code, settings or libraries changed is another one: only the lines that agree
    with its last line count, and of equal ones the last.

    Raises
    ------
    ValueError
        If the lines were made with several caps or numbers of threads.
    """
    good = [line for line in lines if "error" not in line]
    for name in ("cap", "threads"):
        found = {line[name] for line in good}
        if len(found) > 1:
            raise ValueError(
                f"lines that are compared must have one {name}; got "
                f"{', '.join(sorted(map(str, found)))}; choose one with --{name}"
            )
    newest = {(line["contender"], line["task"]): _identity(line) for line in good}
    code = {line["contender"]: (line["code"], line["versions"]) for line in good}
    results: Results = {}
    for line in good:
        name = line["contender"]
        same_code = code[name] == (line["code"], line["versions"])
        if same_code and newest[name, line["task"]] == _identity(line):
            results.setdefault(name, {})[line["table"], line["seed"]] = line
    return results


def _identity(line: Line) -> str:
    return key_of({**line, "table": "", "seed": 0, "split": ""})


@dataclass(frozen=True)
class Standing:
    """One contender against the reference, over the tables that both have.

    Parameters
    ----------
    contender : str
        Its name.
    n_tables, n_pairs : int
        Tables, and pairs of table and seed.
    ratio : float
        Geometric mean over the tables of its loss relative to the reference's; below 1 is better.
    ratio_error : float
        Standard error of `ratio` from the seeds alone, for these tables; NaN with one seed.
    low, high : float
        95 % interval of `ratio` over tables (Student's t); NaN with one table.
    mean_ratio : float
        Arithmetic mean over the tables of the mean ratio.
    wins, losses : int
        Tables on which its mean is below, above the reference's.
    pair_wins : int
        Pairs on which it is below.
    fit_seconds : float
        Geometric mean over the tables of the mean time of a fit.
    fit_ratio : float
        The same relative to the reference, pair by pair.
    predict_microseconds : float
        Geometric mean over the tables, per row.
    """

    contender: str
    n_tables: int
    n_pairs: int
    ratio: float
    ratio_error: float
    low: float
    high: float
    mean_ratio: float
    wins: int
    losses: int
    pair_wins: int
    fit_seconds: float
    fit_ratio: float
    predict_microseconds: float


def table_log_ratios(
    own: dict[Pair, Line], reference: dict[Pair, Line]
) -> dict[str, list[tuple[Line, Line]]]:
    """Pairs of lines by table, in the order of the reference."""
    pairs: dict[str, list[tuple[Line, Line]]] = {}
    for pair, line in reference.items():
        if pair in own:
            pairs.setdefault(pair[0], []).append((own[pair], line))
    return pairs


def _log_ratio(own: Line, reference: Line) -> float:
    return math.log(max(loss_of(own), 1e-12) / max(loss_of(reference), 1e-12))


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(float(np.mean(np.log(np.maximum(values, 1e-9)))))


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def standing_of(contender: str, results: Results, reference: str) -> Standing | None:
    """Compare one contender with the reference; None where they share no table."""
    by_table = table_log_ratios(results[contender], results[reference])
    if not by_table:
        return None
    logs = {name: [_log_ratio(*pair) for pair in pairs] for name, pairs in by_table.items()}
    means = [float(np.mean(values)) for values in logs.values()]
    centre = float(np.mean(means))
    seed_errors = [_standard_error(values) for values in logs.values()]
    ratio_error = math.sqrt(sum(error**2 for error in seed_errors)) / len(means)
    half = _standard_error(means) * _student_quantile(len(means) - 1)

    def per_table(value: Any) -> float:
        return _geometric_mean(
            [float(np.mean([value(*pair) for pair in pairs])) for pairs in by_table.values()]
        )

    return Standing(
        contender=contender,
        n_tables=len(means),
        n_pairs=sum(map(len, logs.values())),
        ratio=math.exp(centre),
        ratio_error=math.exp(centre) * ratio_error,
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        mean_ratio=float(np.mean([np.mean(np.exp(values)) for values in logs.values()])),
        wins=sum(mean < 0 for mean in means),
        losses=sum(mean > 0 for mean in means),
        pair_wins=sum(value < 0 for values in logs.values() for value in values),
        fit_seconds=per_table(lambda own, _: own["fit_seconds"]),
        fit_ratio=per_table(
            lambda own, base: max(own["fit_seconds"], 1e-9) / max(base["fit_seconds"], 1e-9)
        ),
        predict_microseconds=per_table(lambda own, _: 1e6 * own["predict_seconds"] / own["n_test"]),
    )


def _student_quantile(degrees: int) -> float:
    if degrees < 1:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def shared_pairs(results: Results) -> Results:
    """Only the tables and seeds that every contender has."""
    shared = set.intersection(*(set(pairs) for pairs in results.values()))
    return {
        name: {pair: line for pair, line in pairs.items() if pair in shared}
        for name, pairs in results.items()
    }


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def standings_table(results: Results, reference: str) -> str:
    """All contenders against the reference, the best first, as Markdown.

    Raises
    ------
    ValueError
        If the reference has no lines.
    """
    if reference not in results:
        raise ValueError(
            f"the reference must have lines; got {reference!r}; there are {', '.join(results)}"
        )
    standings = [standing_of(name, results, reference) for name in results]
    ordered = sorted((s for s in standings if s is not None), key=lambda s: s.ratio)
    rows = [
        (
            f"**{s.contender}**" if s.contender == reference else s.contender,
            f"{s.n_tables} ({s.n_pairs})",
            f"{s.ratio:.4f}",
            _number(s.ratio_error, ".4f"),
            f"{_number(s.low, '.3f')} to {_number(s.high, '.3f')}",
            f"{s.mean_ratio:.4f}",
            f"{s.wins}–{s.losses}",
            f"{s.pair_wins} of {s.n_pairs}",
            f"{s.fit_seconds:.3g}",
            f"{s.fit_ratio:.3g}",
            f"{s.predict_microseconds:.3g}",
        )
        for s in ordered
    ]
    headings = (
        "contender",
        "tables (pairs)",
        "relative loss, geometric mean",
        "± seeds",
        "95 % over tables",
        "mean",
        "tables won–lost",
        "pairs won",
        "fit, s",
        "fit, relative",
        "predict, µs a row",
    )
    return _markdown(headings, rows)


def breakdown_table(results: Results, reference: str) -> str:
    """Relative loss by table, with its standard error over seeds, as Markdown."""
    names = [name for name in results if name != reference]
    tables = list(dict.fromkeys(table for table, _ in results[reference]))
    paired = {name: table_log_ratios(results[name], results[reference]) for name in names}
    rows = []
    for table in tables:
        own = [loss_of(line) for (name, _), line in results[reference].items() if name == table]
        row = [table, f"{np.mean(own):.5g}"]
        for name in names:
            logs = [_log_ratio(*pair) for pair in paired[name].get(table, [])]
            if not logs:
                row.append("–")
                continue
            ratio, error = math.exp(float(np.mean(logs))), _standard_error(logs)
            text = f"{ratio:.3f}"
            row.append(text if math.isnan(error) else f"{text} ± {ratio * error:.3f}")
        rows.append(tuple(row))
    return _markdown(("table", f"{reference}, loss", *names), rows)


def score_table(results: Results, score: str) -> str:
    """Mean of one score by table and contender, as Markdown; – where a task lacks it."""
    tables = list(dict.fromkeys(table for pairs in results.values() for table, _ in pairs))
    rows = []
    for table in tables:
        row = [table]
        for pairs in results.values():
            values = [
                line["scores"][score] if score in line["scores"] else line.get(score)
                for (name, _), line in pairs.items()
                if name == table
            ]
            known = [value for value in values if isinstance(value, int | float)]
            row.append(f"{np.mean(known):.4g}" if known else "–")
        if any(cell != "–" for cell in row[1:]):
            rows.append(tuple(row))
    return _markdown((f"{score}", *results), rows)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
