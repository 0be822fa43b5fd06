"""The bar of a fit in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tabwright.cli import console
from tabwright.training.loop import Epoch


def _epoch(number: int) -> Epoch:
    return Epoch(number, 0.7, 0.65 / number, 0.61 / number, 1e-3, float(number))


def _seen(monkeypatch: pytest.MonkeyPatch, *, silent: bool, is_terminal: bool) -> str:
    file = io.StringIO()
    err = Console(file=file, force_terminal=is_terminal, width=100, _environ={})
    monkeypatch.setattr(console, "err", err)
    with console.epoch_bar(silent) as bar:
        for number in (1, 2):
            bar(_epoch(number), 30)
        bar.hide()
    return file.getvalue()


def test_a_bar_says_the_epoch_the_loss_and_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _seen(monkeypatch, silent=False, is_terminal=True)
    assert "training: epoch 2 of at most 30" in seen
    assert "loss 0.3250, best 0.3050" in seen
    # The time left, of which nothing is known so soon.
    assert "-:--:--" in seen


@pytest.mark.parametrize(("silent", "is_terminal"), [(True, True), (False, False)])
def test_there_is_no_bar_where_it_is_not_wanted_or_seen(
    silent: bool, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _seen(monkeypatch, silent=silent, is_terminal=is_terminal) == ""
