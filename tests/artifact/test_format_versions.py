"""A format that is frozen can still grow: old files load, new ones are refused by name only."""

import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tabwright._version import __version__
from tabwright.artifact import format_versions as formats
from tabwright.artifact.container import pack, unpack
from tabwright.artifact.format_versions import format_of
from tabwright.artifact.schema import Reader
from tabwright.errors import ArtifactError
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows


@pytest.fixture(scope="module")
def model() -> FittedModel:
    frame = pl.DataFrame({"x": np.arange(40.0), "y": np.arange(40.0) % 7})
    settings = FitSettings(
        task="classification", hidden_dim=4, num_hidden_layers=1, n_members=1, max_epochs=1
    )
    codes = np.arange(40) % 2
    return fit_table(LabelledRows(frame, codes), settings, classes=np.array(["a", "b"]))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the next versions had brought three things that this one has."""
    monkeypatch.setitem(formats.FORMATS, 4, "0.4.0")
    monkeypatch.setitem(formats.FORMATS, 5, "0.5.0")
    monkeypatch.setitem(formats.ADDED, "settings.hide_rate", 4)
    monkeypatch.setitem(formats.ADDED, "settings.numeric_encoding=robust", 4)
    monkeypatch.setitem(formats.ADDED, "calibrator", 5)


def with_settings(model: FittedModel, **changes: object) -> FittedModel:
    return replace(model, settings=replace(model.settings, **changes))  # type: ignore[arg-type]


def envelope(data: bytes) -> dict[str, object]:
    size = int.from_bytes(data[:8], "little")
    loaded: dict[str, object] = json.loads(
        json.loads(data[8 : 8 + size])["__metadata__"]["tabwright"]
    )
    return loaded


def said(data: bytes) -> tuple[object, object]:
    found = envelope(data)
    return found["format"], found["needs"]


def test_every_added_place_has_a_known_format() -> None:
    assert set(formats.ADDED.values()) <= set(formats.FORMATS)
    assert list(formats.FORMATS) == list(range(1, max(formats.FORMATS) + 1))
    assert formats.FORMATS[1] == "0.1.0"
    known = [re.findall(r"\d+", version) for version in (*formats.FORMATS.values(), __version__)]
    numbers = [[int(digits) for digits in version] for version in known]
    assert numbers == sorted(numbers)


@pytest.mark.usefixtures("later")
def test_a_file_says_the_lowest_format_that_its_content_needs(model: FittedModel) -> None:
    plain = with_settings(replace(model, calibrator=None, trees=None), hide_rate=0.02)
    assert said(pack(*plain.to_artifact())) == (1, "0.1.0")
    assert said(pack(*with_settings(plain, hide_rate=0.1).to_artifact())) == (4, "0.4.0")
    robust = with_settings(plain, numeric_encoding="robust")
    assert said(pack(*robust.to_artifact())) == (4, "0.4.0")
    assert said(pack(*replace(robust, calibrator=model.calibrator).to_artifact())) == (5, "0.5.0")


@pytest.mark.usefixtures("later")
def test_what_an_old_file_lacks_is_the_default(model: FittedModel) -> None:
    plain = with_settings(replace(model, calibrator=None, trees=None), hide_rate=0.02)
    document, tensors = unpack(pack(*plain.to_artifact()))
    assert "hide_rate" not in document["settings"]
    assert "calibrator" not in document
    again = FittedModel.from_artifact(document, tensors)
    assert again.settings == plain.settings
    assert again.calibrator is None
    assert pack(*again.to_artifact()) == pack(*plain.to_artifact())


@pytest.mark.usefixtures("later")
def test_what_a_new_file_says_comes_back(model: FittedModel) -> None:
    new = with_settings(model, hide_rate=0.3, numeric_encoding="robust")
    data = pack(*new.to_artifact())
    again = FittedModel.from_artifact(*unpack(data))
    assert again.settings == new.settings
    assert pack(*again.to_artifact()) == data


def test_an_older_version_names_the_one_that_a_new_file_needs(model: FittedModel) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(formats.FORMATS, 4, "0.4.0")
        patch.setitem(formats.ADDED, "settings.hide_rate", 4)
        plain = pack(*with_settings(model, hide_rate=0.02).to_artifact())
        new = pack(*with_settings(model, hide_rate=0.3).to_artifact())
    message = "m is in format 4 and needs tabwright >= 0.4.0; this is tabwright"
    with pytest.raises(ArtifactError, match=re.escape(message)):
        unpack(new, "m")
    # This version lists hide_rate in format 1, where it must be given.
    with pytest.raises(ArtifactError, match=r"settings\.hide_rate must be given"):
        FittedModel.from_artifact(*unpack(plain))


@pytest.mark.usefixtures("later")
def test_keys_of_format_1_stay_required() -> None:
    settings = FitSettings(task="regression").to_document()
    del settings["dropout"]
    with pytest.raises(ArtifactError, match=r"settings\.dropout must be given"):
        FitSettings.from_document(Reader(settings, "settings"))


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("written", [1, 5])
def test_another_format_than_the_content_needs_is_refused(written: int) -> None:
    document = {"settings": {"hide_rate": 0.5}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(formats.ADDED, "settings.hide_rate", written)
        data = pack(document, {})
    with pytest.raises(ArtifactError, match="must be spelled as Tabwright spells it"):
        unpack(data)


@pytest.mark.usefixtures("later")
def test_odd_documents_hold_nothing_new() -> None:
    for document in ({}, {"settings": None}, {"settings": [1]}, {"settings": {"hide": 1}}):
        assert format_of(document) == 1
    assert format_of({"settings": {"hide_rate": None}}) == 4
    assert format_of({"settings": {"numeric_encoding": ["robust"]}}) == 1
