"""Does distillation help? Teacher, student and the same network trained directly, on real tables.

    python -m benchmarks.distillation run --tables small --seeds 0,1,2,3,4 --cap 10000 \\
        --teachers hist_gradient_boosting --out benchmarks/results/raw/distillation.jsonl
    python -m benchmarks.distillation table benchmarks/results/raw/distillation.jsonl
    python -m benchmarks.distillation run --tables covertype_20k,california_housing \\
        --widths 4,8,16,32,64,128 --out benchmarks/results/raw/curve.jsonl
    python -m benchmarks.distillation curve benchmarks/results/raw/curve.jsonl --out curve.png

Splits are those of the suite. The student and the direct network share training and validation
rows, encoder and size; none of the three sees the test rows. A run can be killed and started
again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.code_hash import hash_modules
from benchmarks.contenders import python_version
from benchmarks.result_lines import Line, opened_results, read_lines
from benchmarks.row_splits import Split as Rows
from benchmarks.row_splits import committed_split
from benchmarks.suite import machine
from benchmarks.tables import ROOT, BenchmarkTable, load_table, table_names
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.distillation.trees.problem import TEACHER_KINDS, TeacherKind
from tabwright.fitting.students.distill_table import Split, distill_table
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows

LIBRARIES = {
    "hist_gradient_boosting": "scikit-learn",
    "random_forest": "scikit-learn",
    "extra_trees": "scikit-learn",
}


def teachers_of(text: str) -> tuple[TeacherKind, ...]:
    """`a+b` as kinds of tree ensembles whose mean teaches.

    Raises
    ------
    ValueError
        If a kind is not known.
    """
    kinds = tuple(text.split("+"))
    unknown = [kind for kind in kinds if kind not in TEACHER_KINDS]
    if unknown:
        raise ValueError(
            f"a teacher must be of {', '.join(TEACHER_KINDS)}, joined by '+' for their mean; "
            f"got {unknown[0]!r}"
        )
    return cast("tuple[TeacherKind, ...]", kinds)


def planned_line(
    table: BenchmarkTable, split: Rows, teacher: str, width: int | None, seed: int, cap: int | None
) -> Line:
    """What identifies a measurement, before it is made."""
    libraries = {LIBRARIES.get(kind, kind) for kind in teachers_of(teacher)}
    return {
        "table": table.name,
        "task": table.task,
        "seed": seed,
        "cap": cap,
        "threads": 1,
        "split": split.checksum,
        "contender": f"distilled:{teacher}",
        "settings": {} if width is None else {"hidden_dim": width},
        "code": hash_modules(ROOT, "tabwright.fitting.students.distill_table"),
        "versions": {name: version(name) for name in sorted({"torch", "numpy", *libraries})},
    }


def measure(table: BenchmarkTable, split: Rows, planned: Line) -> Line:
    """Distil once and report, or the error that stopped it."""
    split = split.capped(planned["cap"])
    line: Line = {
        **planned,
        "n_train": len(split.train),
        "n_test": len(split.test),
        "python": python_version(),
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 2),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    kinds = teachers_of(planned["contender"].partition(":")[2])
    begun = time.perf_counter()
    # Row order by number: what a split by time of the rows at hand would see.
    train, test = np.sort(split.train), np.sort(split.test)
    try:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            model, report = distill_table(
                LabelledRows(table.features[train], table.target[train]),
                FitSettings(
                    task=table.task,
                    training_mode="tree_teacher_distillation",
                    hidden_dim=planned["settings"].get("hidden_dim"),
                    random_state=planned["seed"],
                    device="cpu",
                ),
                DistillationOptions(kinds[0] if len(kinds) == 1 else kinds),
                classes=np.arange(table.n_classes) if table.n_classes else None,
                split=Split(test=LabelledRows(table.features[test], table.target[test])),
            )
        line["seconds"] = time.perf_counter() - begun
        line["n_inputs"] = model.architecture.input_dim
        line["report"] = report.to_document()
        line["tried"] = model.card["distillation"]["tried"]
        line["chosen"] = model.card["distillation"]["chosen"]
        line["teacher_out_of_fold"] = model.card["distillation"]["teacher"]["scores"]
        line["stopped"] = model.stopped
    except Exception as error:
        traceback.print_exc()
        line["error"] = f"{type(error).__name__}: {error}"
    return line


def run(arguments: argparse.Namespace) -> int:
    """Make the measurements that the file does not hold yet; 1 if any failed."""
    teachers = arguments.teachers.split(",")
    for teacher in teachers:
        teachers_of(teacher)
    widths = [int(width) for width in arguments.widths.split(",")] if arguments.widths else [None]
    failed = 0
    tables = {name: load_table(name) for name in table_names(arguments.tables)}
    with opened_results(arguments.out) as results:
        for seed in (int(seed) for seed in arguments.seeds.split(",")):
            for table in tables.values():
                split = committed_split(table, seed)
                for teacher in teachers:
                    for width in widths:
                        planned = planned_line(table, split, teacher, width, seed, arguments.cap)
                        if results.has(planned):
                            continue
                        line = measure(table, split, planned)
                        results.add(line)
                        print(_summary(line), flush=True)
                        failed += "error" in line
    return 1 if failed else 0


def _summary(line: Line) -> str:
    where = f"{line['table']} seed {line['seed']} {line['contender']}"
    if "error" in line:
        return f"{where}: {line['error']}"
    report = line["report"]
    losses = ", ".join(f"{n} {report[n]['loss']:.5g}" for n in ("teacher", "direct", "student"))
    chosen = line["chosen"]
    return (
        f"{where}: {losses}; weight {chosen['teacher_weight']}, {chosen['augmentation']}; "
        f"{line['seconds']:.0f} s"
    )


# ---------------------------------------------------------------------------------------------
# Tables and pictures
# ---------------------------------------------------------------------------------------------


def grouped(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Lines by teacher and table, of the newest code; the last of equal ones counts."""
    good = [line for line in lines if "error" not in line]
    code = {line["contender"]: line["code"] for line in good}
    found: dict[tuple[str, str], dict[tuple[int, str], Line]] = {}
    for line in good:
        if line["code"] == code[line["contender"]]:
            key = (line["contender"].partition(":")[2], line["table"])
            found.setdefault(key, {})[line["seed"], repr(line["settings"])] = line
    return {key: list(own.values()) for key, own in found.items()}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over paired splits and its standard error (infinite for a single split)."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return float(array.mean()), math.inf
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array)))


def table_row(lines: Sequence[Line]) -> dict[str, Any]:
    """What several paired splits of one table and teacher say together."""
    reports = [line["report"] for line in lines]
    losses = {
        name: np.array([report[name]["loss"] for report in reports])
        for name in ("teacher", "direct", "student")
    }
    gap, gap_error = mean_and_error(losses["direct"] - losses["teacher"])
    gain, gain_error = mean_and_error(losses["direct"] - losses["student"])
    beaten, beaten_error = mean_and_error(losses["teacher"] - losses["student"])
    is_gap = gap > 2 * gap_error
    closed = gain / gap if is_gap else None
    return {
        "n_splits": len(lines),
        "n_inputs": int(np.median([line["n_inputs"] for line in lines])),
        "losses": {name: float(own.mean()) for name, own in losses.items()},
        "gap": (gap, gap_error),
        "gain": (gain, gain_error),
        "closed": closed,
        # The two targets: half of a real gap closed; else no worse by more than one error.
        "met": closed >= 0.5 if closed is not None else gain >= -gain_error,
        "beats_teacher": beaten > 0,
        "clearly_beats_teacher": beaten > beaten_error,
        "file_kb": _median(reports, "student", "file_bytes") / 1000,
        "row_us": _median(reports, "student", "row_us"),
        "raw_row_us": _median(reports, "student", "raw_row_us"),
        "teacher_row_us": _median(reports, "teacher", "row_us"),
    }


def _median(reports: Sequence[dict[str, Any]], name: str, figure: str) -> float:
    return float(np.median([report[name][figure] for report in reports]))


def show(arguments: argparse.Namespace) -> int:
    """Print what the lines say, as Markdown."""
    groups = grouped([line for path in arguments.files for line in read_lines(path)])
    if not groups:
        raise ValueError("the files must hold results; got none")
    for teacher in dict.fromkeys(name for name, _ in groups):
        rows = {table: table_row(own) for (name, table), own in groups.items() if name == teacher}
        print(f"\nTeacher: {teacher}\n")
        print(
            "| table | splits | inputs | teacher | direct | student | gap | gain | closed | target "
            "| beats teacher | kB | us | raw us | teacher us, times |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
        for table, row in rows.items():
            cells = [
                table,
                row["n_splits"],
                row["n_inputs"],
                *(f"{row['losses'][n]:.5g}" for n in ("teacher", "direct", "student")),
                *(f"{row[n][0]:+.3g} ± {row[n][1]:.2g}" for n in ("gap", "gain")),
                "" if row["closed"] is None else f"{row['closed']:.0%}",
                "met" if row["met"] else "missed",
                "clearly" if row["clearly_beats_teacher"] else "yes" * row["beats_teacher"],
                f"{row['file_kb']:.0f}",
                f"{row['row_us']:.1f}",
                f"{row['raw_row_us']:.0f}",
                f"{row['teacher_row_us']:,.0f}, {row['teacher_row_us'] / row['row_us']:.0f}",
            ]
            print("| " + " | ".join(str(cell) for cell in cells) + " |")
        gaps = [row["closed"] for row in rows.values() if row["closed"] is not None]
        print(
            f"\n{sum(row['met'] for row in rows.values())} of {len(rows)} tables meet the target; "
            f"the student beats its teacher on {sum(r['beats_teacher'] for r in rows.values())}; "
            + (
                f"of {len(gaps)} real gaps {np.median(gaps):.0%} is closed (median)."
                if gaps
                else "no table has a gap above two standard errors."
            )
        )
    return 0


def curve(arguments: argparse.Namespace) -> int:
    """Draw loss against file size, one picture a table and teacher."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = grouped([line for path in arguments.files for line in read_lines(path)])
    groups = {key: own for key, own in groups.items() if len({_width(x) for x in own}) > 1}
    if not groups:
        raise ValueError("the files must hold results of several widths; use run --widths")
    figure, axes = plt.subplots(
        1, len(groups), figsize=(5.2 * len(groups), 3.8), squeeze=False, layout="constrained"
    )
    for axis, ((teacher, table), lines) in zip(axes[0], groups.items(), strict=True):
        widths = sorted({_width(line) for line in lines})
        for name, colour in (("direct", "tab:grey"), ("student", "tab:blue")):
            points = []
            for width in widths:
                own = [line["report"] for line in lines if _width(line) == width]
                loss, error = mean_and_error([report[name]["loss"] for report in own])
                size = float(np.median([report[name]["file_bytes"] for report in own])) / 1000
                points.append((size, loss, error if math.isfinite(error) else 0.0))
            sizes, losses, errors = zip(*points, strict=True)
            axis.errorbar(sizes, losses, errors, marker="o", capsize=3, color=colour, label=name)
            if name == "student":
                for width, size, loss in zip(widths, sizes, losses, strict=True):
                    axis.annotate(
                        str(width),
                        (size, loss),
                        (0, -14),
                        textcoords="offset points",
                        ha="center",
                        fontsize=8,
                    )
        mean, error = mean_and_error([line["report"]["teacher"]["loss"] for line in lines])
        axis.axhline(mean, color="tab:orange", linestyle="--", label=f"teacher: {teacher}")
        metric = lines[0]["report"]["metric"]
        axis.set(
            title=table,
            xlabel="file, kB (numbers: hidden width)",
            ylabel="RMSE" if metric == "rmse" else "log-loss",
            xscale="log",
        )
        # Kilobytes as people write them, not as powers of ten.
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.margins(0.08)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(arguments.out, dpi=150)
    print(f"wrote {arguments.out}")
    return 0


def _width(line: Line) -> int:
    width: int = line["settings"].get("hidden_dim", 0)
    return width


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__)
    main.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = main.add_subparsers(required=True)
    runner = commands.add_parser("run", help="make measurements that the file lacks")
    runner.add_argument("--tables", default="small", help="small, all, or names with commas")
    runner.add_argument("--seeds", default="0,1,2,3,4", help="numbers with commas")
    runner.add_argument(
        "--teachers",
        default="hist_gradient_boosting",
        help="kinds with commas; a+b is the mean of two",
    )
    runner.add_argument("--widths", help="hidden widths with commas (default: the mode's own)")
    runner.add_argument(
        "--cap", type=int, help="at most so many rows of a table, test rows included"
    )
    runner.add_argument("--out", type=Path, required=True, help="file of results to go on with")
    runner.set_defaults(command=run)
    shower = commands.add_parser("table", help="print the table as Markdown")
    shower.add_argument("files", nargs="+", type=Path)
    shower.set_defaults(command=show)
    drawer = commands.add_parser("curve", help="draw the size-quality curve of each table")
    drawer.add_argument("files", nargs="+", type=Path)
    drawer.add_argument("--out", type=Path, required=True, help="PNG to write")
    drawer.set_defaults(command=curve)
    return main


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all is well."""
    arguments = parser().parse_args(words)
    try:
        code: int = arguments.command(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    raise SystemExit(main())
