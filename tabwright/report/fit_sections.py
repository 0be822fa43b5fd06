"""The parts of a report on a fit: its table and columns, its training, its networks and settings.

They come from the model alone; the parts on held-out rows are in `report/sections.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabwright.inference.fitted_model import FittedModel, member_modules
from tabwright.inference.tree_mix import combination_notes, combination_table
from tabwright.number_text import number_text
from tabwright.regression import RegressionObjective
from tabwright.report.column_treatment import ColumnTreatment, column_treatments
from tabwright.report.markup import Node, element, number, percent, short, table
from tabwright.report.page import Section, chart, facts, long_table, more
from tabwright.report.plots import plot_learning_curves
from tabwright.report.probability_sections import class_name
from tabwright.tables.column_names import shown_name

_COLUMNS_SHOWN = 100
_CARD_SHOWN = 20

_STOPPED = {
    "schedule": "the last epoch of the schedule was done",
    "patience": "the validation loss had not improved for as long as the patience allows",
    "interrupted": "it was interrupted; the best epochs so far were kept",
    "time limit": "its time was over, or fewer epochs than planned fitted into it",
    "non-finite": "the loss was no longer a number; the best epochs before were kept",
}

_TRAINED_ON: dict[RegressionObjective, str] = {
    "squared_error": "squared error",
    "absolute_error": "absolute error",
    "quantile": "pinball loss",
    "poisson": "Poisson deviance",
    "gamma": "gamma deviance",
}


def table_section(
    model: FittedModel,
    n_rows: int,
    *,
    table_name: str | None,
    notes: Sequence[str],
    left_out: Mapping[str, str],
) -> Section:
    """What the table was, and what was done with each of its columns."""
    card = model.card
    given = card.get("columns", ())
    profile = [c for c in given if isinstance(c, Mapping)] if isinstance(given, list) else []
    columns = column_treatments(model.encoder.plan_, profile)
    used = [column for column in columns if column.used]
    aside = [column for column in columns if not column.used]
    body: list[Node] = [
        facts(
            [
                ("Table", table_name),
                ("Target", _target(model)),
                ("Training rows", _rows(card.get("n_training_rows"))),
                ("Validation rows", _validation_rows(card)),
                ("Rows for the prediction intervals", _rows(card.get("n_interval_rows"))),
                ("Rows of this report", f"{n_rows:,}, held out from everything before"),
                ("All rows together", _all_rows(model, n_rows)),
                (
                    "Columns",
                    f"{len(used):,} used, {len(aside) + len(left_out):,} set aside; "
                    f"{model.encoder.input_dim:,} network inputs",
                ),
                ("Labels", _labels(model)),
            ]
        )
    ]
    if notes:
        body += [
            element("h3", "What was decided on the way"),
            element("ul", [element("li", note) for note in notes]),
        ]
    gone = [(name, "", reason) for name, reason in left_out.items()]
    gone += [(column.name, column.role, column.text) for column in aside]
    if gone:
        body += [
            element("h3", "Columns set aside"),
            *long_table(
                _counted("Columns that the model does not see", len(gone)),
                ["Column", "Role", "Why"],
                [
                    (short(shown_name(name)), role, short(why, 160))
                    for name, role, why in gone[:_COLUMNS_SHOWN]
                ],
                what="columns",
            ),
        ]
    body += [
        element("h3", "Columns used"),
        *long_table(
            _counted("How each column reaches the network", len(used)),
            ["Column", "Role", "Type", "Missing", "Distinct", "Inputs", "Treatment"],
            [_treatment(column) for column in used[:_COLUMNS_SHOWN]],
            what="columns",
            numeric=(3, 4, 5),
        ),
    ]
    return Section("table", "The table and its columns", body)


def _treatment(column: ColumnTreatment) -> list[Node]:
    """The cells of one column."""
    return [
        short(shown_name(column.name)),
        column.role,
        short(column.dtype, 24),
        "–" if column.n_missing is None else f"{column.n_missing:,}",
        "–" if column.n_unique is None else f"{column.n_unique:,}",
        f"{column.n_inputs:,}",
        short(column.text, 240),
    ]


def _counted(title: str, n: int) -> str:
    return title if n <= _COLUMNS_SHOWN else f"{title}: the first {_COLUMNS_SHOWN} of {n:,}"


def _rows(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _validation_rows(card: Mapping[str, Any]) -> str | None:
    """How many they were, or the folds that took their place."""
    folds = card.get("folds")
    if not isinstance(folds, Mapping):
        return _rows(card.get("n_validation_rows"))
    return (
        f"the {folds['n_rows']:,} training rows, in {folds['n_folds']} folds: each is predicted by "
        "networks that did not train on it"
    )


def _all_rows(model: FittedModel, n_rows: int) -> str | None:
    """The sum of the rows above; None where the card does not know them all."""
    card = model.card
    parts = [card.get(f"n_{name}_rows", 0) for name in ("training", "validation", "interval")]
    if "folds" in card and isinstance(parts[0], int):
        return f"{parts[0] + n_rows:,}"
    if model.settings.refit and isinstance(parts[0], int):
        # Trained on again in the end, so that the training rows count them already.
        return f"{parts[0] + n_rows:,}; the networks were fitted again on the validation rows too"
    return f"{sum(parts) + n_rows:,}" if all(isinstance(part, int) for part in parts) else None


def _target(model: FittedModel) -> Node:
    name = model.card.get("target")
    kind = model.settings.task
    return [short(shown_name(name)), f" ({kind})"] if isinstance(name, str) else kind


def _labels(model: FittedModel) -> Node:
    """The first twelve labels with their shares."""
    if model.classes is None:
        return None
    shares = model.class_prior
    parts: list[Node] = []
    for code in range(min(len(model.classes), 12)):
        share = "" if shares is None else f" ({percent(float(shares[code]))})"
        parts += [", " if code else "", short(class_name(model, code), 30), share]
    if len(model.classes) > 12:
        parts.append(f" and {len(model.classes) - 12:,} more")
    return parts


def training_section(model: FittedModel) -> Section:
    """Learning curves and how training ended."""
    unit = f"{_TRAINED_ON[model.settings.objective]} of the standardised target"
    if model.classes is not None:
        weighted = model.class_weights is not None
        unit = f"{'class-weighted ' if weighted else ''}log-loss in nats"
    n = len(model.members)
    kept = ", ".join(map(str, model.best_epochs[:12])) + (", …" if n > 12 else "")
    caption = (
        f"Mean over the {n} networks still training." if n > 1 else "One network."
    ) + " Training loss is measured with dropout on, so it may lie above the validation loss."
    body: list[Node] = []
    if model.history:
        figure = plot_learning_curves(model.history, model.best_epochs, unit=unit)
        label = f"Line chart: loss by epoch over {len(model.history)} epochs; kept: {kept}"
        body.append(chart(figure, key="learning", label=label, caption=caption))
    last = model.history[-1] if model.history else {}
    body.append(
        facts(
            [
                ("Epochs run", f"{len(model.history):,}"),
                ("Epochs kept", kept),
                ("Ended because", None if model.stopped is None else _STOPPED[model.stopped]),
                ("Time of the epochs", f"{last['seconds']:,.1f} s" if "seconds" in last else None),
            ]
        )
    )
    return Section("training", "Training", body)


def model_section(model: FittedModel) -> Section:
    """The model's structure, read off the live networks, its settings and its card."""
    from ai.ml.frameworks.pytorch.models import (
        model_dropout,
        model_hidden_dim,
        model_num_hidden_layers,
        model_training_mode,
    )

    network = member_modules(model)[0]
    built, calibrator = model_training_mode(network), model.calibrator
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    layers = [
        [name or "the network", type(part).__name__, _shapes(part)]
        for name, part in network.named_modules()
        if not list(part.children()) and any(True for _ in part.parameters())
    ]
    each = " in each network" if len(model.members) > 1 else ""
    body: list[Node] = [
        facts(
            [
                ("Training mode", model.settings.training_mode),
                (
                    "Networks",
                    f"{len(model.members)} × {type(network).__name__}"
                    + (", averaged" if len(model.members) > 1 else ""),
                ),
                ("Architecture", None if built == model.settings.training_mode else built),
                ("Hidden layers", f"{model_num_hidden_layers(network)}"),
                ("Width", f"{model_hidden_dim(network):,}"),
                ("Dropout", f"{model_dropout(network):g}"),
                (
                    "Inputs and outputs",
                    f"{model.architecture.input_dim:,} → {model.architecture.output_dim:,}",
                ),
                ("Parameters", f"{n_parameters:,}" + each),
                (
                    "Calibration",
                    None
                    if calibrator is None or calibrator.kind == "identity"
                    else calibrator.describe(),
                ),
            ]
        ),
        *_combination(model),
        element("h3", "Model card"),
        facts(_card(model.card)),
        more(
            "Settings of the fit",
            facts([(name, str(value)) for name, value in model.settings.to_document().items()]),
        ),
        more(
            "Layers",
            table(
                "Layers with parameters, from the inputs on",
                ["Name", "Layer", "Shapes"],
                layers[:60],
            ),
        ),
    ]
    return Section("model", "The model", body)


def _combination(model: FittedModel) -> list[Node]:
    """What `quality="best"` combined: a table, or nothing."""
    notes, rows = combination_notes(model.card), combination_table(model.card)
    if not notes:
        return []
    body: list[Node] = [element("h3", "Networks and trees")]
    if rows:
        body.append(
            table(
                f"Parts by {model.card['combination'].get('measure')} on the validation rows that "
                "chose the weights, so that the loss of the whole is somewhat low",
                ["Part", "Weight", "Loss", "Fitted by"],
                [
                    [short(name), weight, number(loss), short(remark)]
                    for name, weight, loss, remark in rows
                ],
                numeric=(1, 2),
            )
        )
        notes = notes[1:]
    return body + [element("p", note) for note in notes]


def _shapes(part: Any) -> str:
    return ", ".join(
        f"{name} {'×'.join(map(str, value.shape))}" for name, value in part.named_parameters()
    )


def _card(card: Mapping[str, Any]) -> list[tuple[str, Node]]:
    """What the card holds, but for what has a table of its own, or is for machines alone."""
    pairs: list[tuple[str, Node]] = []
    for key, value in card.items():
        if key in ("columns", "combination", "row_sketch"):
            continue
        name = str(key).removeprefix("n_").replace("_", " ").capitalize()
        if str(key).startswith("n_"):
            value = _rows(value) or value
        pairs.append((name[:60], short(_card_text(value), 300)))
    return pairs[:_CARD_SHOWN]


def _card_text(value: object) -> object:
    """A value of the card without the braces of Python, numbers as short as elsewhere."""
    if isinstance(value, Mapping):
        entries = ((str(k).replace("_", " "), v) for k, v in value.items() if v is not None)
        return ", ".join(f"{k} {_card_text(v)}" for k, v in entries)
    if isinstance(value, list | tuple):
        return ", ".join(str(_card_text(entry)) for entry in value)
    return number_text(value) if isinstance(value, float) else value
