"""The chart of docs/comparison.md, drawn from the table of docs/performance.md.

`python -m benchmarks.comparison_chart` writes docs/comparison-light.png and -dark.png. The figures
stand in one place only: the table under "Comparison with other libraries".
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
SECTION = "\n## Comparison with other libraries\n"
# Rows of its first table, and the names that the chart gives them.
SHOWN = {
    "**Tabwright, the default**": "Tabwright, the default",
    "CatBoost": "CatBoost",
    "Tabwright, networks alone": "Tabwright, networks alone",
    "LightGBM": "LightGBM",
    "scikit-learn's MLP": "scikit-learn's MLP",
}
COLOURS = {
    "light": {"ink": "#1f2933", "grid": "#d5dade", "ours": "#00796b", "other": "#7b8794"},
    "dark": {"ink": "#e4e7eb", "grid": "#454b55", "ours": "#4db6ac", "other": "#9aa5b1"},
}
BACKGROUND = {"light": "#ffffff", "dark": "#1e2129"}


@dataclass(frozen=True)
class Line:
    """A contender: loss relative to our default, and its 95 % interval over tables."""

    name: str
    relative_loss: float
    low: float
    high: float


def lines(page: str) -> list[Line]:
    """The contenders that the chart shows, from the text of docs/performance.md.

    Raises
    ------
    ValueError
        If a contender is not in the table.
    """
    table = page.split(SECTION, 1)[1].split("\n## ", 1)[0]
    rows: dict[str, list[str]] = {}
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        # Only the first table has an interval in its fifth column.
        if len(cells) == 8 and " to " in cells[4]:
            rows.setdefault(cells[0], cells)
    missing = SHOWN.keys() - rows.keys()
    if missing:
        raise ValueError(f"docs/performance.md must have a row for {sorted(missing)}")
    found = []
    for label, name in SHOWN.items():
        low, high = map(float, rows[label][4].split(" to "))
        found.append(Line(name, float(rows[label][2]), low, high))
    return sorted(found, key=lambda line: line.relative_loss)


def draw(shown: list[Line], theme: str, path: Path) -> None:
    """Write the chart: one line a contender, the best on top."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    colours = COLOURS[theme]
    figure, axes = plt.subplots(figsize=(8.4, 2.8), dpi=150, facecolor=BACKGROUND[theme])
    axes.set_facecolor(BACKGROUND[theme])
    for place, line in enumerate(shown):
        colour = colours["ours" if line.name.startswith("Tabwright") else "other"]
        axes.plot([line.low, line.high], [place, place], color=colour, lw=2.5, alpha=0.7)
        axes.plot(line.relative_loss, place, "o", color=colour, ms=8)
        axes.annotate(
            f"{line.relative_loss:.2f}",
            (line.high, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=colours["ink"],
            fontsize=10,
        )
    axes.axvline(1, color=colours["ink"], lw=1, ls=":")
    axes.set_yticks(range(len(shown)), [line.name for line in shown], fontsize=10.5)
    axes.set_xscale("log")
    ticks = [1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.3]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.96, 2.6)
    axes.invert_yaxis()
    axes.set_xlabel("held-out loss relative to our default (lower is better)", fontsize=10)
    axes.tick_params(colors=colours["ink"], length=0)
    axes.xaxis.label.set_color(colours["ink"])
    axes.grid(axis="x", color=colours["grid"], lw=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, facecolor=BACKGROUND[theme], metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Draw the chart for both themes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the two pictures")
    arguments = parser.parse_args()
    shown = lines((DOCS / "performance.md").read_text())
    for theme in COLOURS:
        draw(shown, theme, arguments.out / f"comparison-{theme}.png")


if __name__ == "__main__":
    main()
