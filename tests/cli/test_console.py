"""The line of a terminal that says what goes on."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace

import pytest
import typer
from rich.console import Console

from tabwright.cli import console
from tabwright.cli.errors import readable_errors
from tabwright.inference.fitted_model import load_fitted
from tabwright.training.loop import Epoch
from tests.golden.rows import FOLDER


def _epoch(number: int) -> Epoch:
    return Epoch(number, 0.7, 0.65 / number, 0.61 / number, 1e-3, float(number))


def _seen(monkeypatch: pytest.MonkeyPatch, *, silent: bool, is_terminal: bool) -> str:
    file = io.StringIO()
    err = Console(file=file, force_terminal=is_terminal, width=100, _environ={})
    monkeypatch.setattr(console, "err", err)
    with console.progress_line(silent, "loading") as line:
        for number in (1, 2):
            line.epoch(_epoch(number), 30)
        line.doing("saving")
        line.counted("rows", 1200)
        line.counted("resamples", 250, 1000)
    return file.getvalue()


def test_a_bar_says_the_epoch_the_loss_and_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _seen(monkeypatch, silent=False, is_terminal=True)
    assert "training: epoch 2 of at most 30" in seen
    assert "loss 0.3250, best 0.3050" in seen
    # The time left, of which nothing is known so soon.
    assert "-:--:--" in seen


def test_the_time_left_fits_beside_a_fold_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    err = Console(file=file, force_terminal=True, width=80, _environ={})
    monkeypatch.setattr(console, "err", err)
    with console.progress_line(False, "loading") as line:
        line.epoch(replace(_epoch(2), fold=4, n_folds=4), 40)
    assert re.search(
        r"fold 4 of 4, epoch 2 of at most 40 .*best 0.3050 \S*-:--:--", file.getvalue()
    )


def test_after_the_last_epoch_it_says_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=file, force_terminal=True, width=80))
    with console.progress_line(False, "loading") as line:
        line.epoch(_epoch(29), 30)
        assert "after the last epoch" not in file.getvalue()
        line.epoch(_epoch(30), 30)
    assert "after the last epoch: trees, calibration, scores" in file.getvalue()


def test_the_time_left_counts_all_that_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    now = 0.0
    err = Console(file=file, force_terminal=True, width=80, _environ={}, get_time=lambda: now)
    monkeypatch.setattr(console, "err", err)

    def shown() -> str:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
        return text.rsplit("left: ", 1)[-1].split()[0]

    with console.counting_bar(False, "fits", 10) as advance:
        assert shown() == "-:--:--"
        now = 20.0
        advance(1, "fold 1 of 5, hist_gradient_boosting")
        now = 22.0
        advance(1)
        # Ten of 11 seconds each, the slow first one included; 22 have gone.
        assert shown() != "0:00:16"
        now = 30.0
        advance(0)
    assert shown() == "0:01:20"


def test_the_line_says_at_once_what_goes_on_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _seen(monkeypatch, silent=False, is_terminal=True)
    steps = ("loading", "training: epoch 1", "saving", "1,200 rows", "250 of 1,000 resamples")
    places = [seen.find(step) for step in steps]
    assert min(places) >= 0
    assert places == sorted(places)


def test_a_message_takes_the_place_of_the_line_and_gives_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(
        console, "err", Console(file=file, force_terminal=True, width=100, _environ={})
    )
    with console.progress_line(False, "loading") as line:
        line.hidden_during(console.show_note)("half way")
        assert line._bar is not None
    before, _, after = file.getvalue().partition("note: half way")
    assert "loading" in before
    assert "loading" in after


@pytest.mark.parametrize(("silent", "is_terminal"), [(True, True), (False, False)])
def test_there_is_no_bar_where_it_is_not_wanted_or_seen(
    silent: bool, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _seen(monkeypatch, silent=silent, is_terminal=is_terminal) == ""


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0.37334, "0.3733"), (42_783.978, "42,784"), (577.472, "577.47"), (12.34567, "12.346")],
)
def test_scores_have_as_many_digits_as_mean_something(
    size: float, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.show_scores({"test rows": {"rmse": size}}, "scores", {"rmse": (size, size)})
    assert capsys.readouterr().out.split()[-4:] == [shown, shown, "to", shown]


def test_numbers_of_a_column_have_as_many_places() -> None:
    assert console.alike([0.1256, 0.08588, -0.01135, -0.00001]) == [
        "0.126",
        "0.086",
        "-0.011",
        "0.000",
    ]
    assert console.alike([12_345.6, 7.0]) == ["12,346", "7"]
    assert console.alike([0.0048, 0.00021]) == ["0.00480", "0.00021"]
    assert console.alike([0.0]) == ["0.000"]
    assert console.alike([]) == []


def test_a_score_of_zero_has_no_sign(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_scores({"test rows": {"r2": 0.9464}, "baseline": {"r2": -0.00001}}, "scores")
    assert "0.9464    0.0000" in capsys.readouterr().out


def test_inspect_has_the_scores_in_the_order_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    # A file has them by the alphabet: mae, r2, rmse.
    model = load_fitted(FOLDER / "0.2.0" / "regression-sums.safetensors")
    scores = {"r2": 0.9, "mae": 1.0, "unheard_of": 0.5, "rmse": 2.0}
    console.show_model_scores(replace(model, metrics={"test": scores}))
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["rmse", "mae", "r2", "unheard_of"]


def test_a_command_to_copy_is_one_line_however_narrow_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=file, force_terminal=True, width=40))
    words = ["tabwright", "train", "a table.csv", "--target", "Survived", "--drop", "PassengerId"]
    console.show_command(words)
    assert file.getvalue().count("\n") == 1
    assert shlex.split(file.getvalue()) == words


def test_an_interrupt_that_met_the_line_is_one_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            [].pop()

    with pytest.raises(typer.Exit) as left, readable_errors():
        interrupted()
    assert left.value.exit_code == 130
    assert "interrupted" in capsys.readouterr().err
