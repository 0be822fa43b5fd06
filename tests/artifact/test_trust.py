"""A whole model file: loading it opens, imports and runs nothing else; damage is always told."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from campaigns import mutate_artifact
from campaigns.kill_saves import fill_a_disk, kill_at_random
from tabwright.artifact.container import pack, read_artifact
from tabwright.errors import ArtifactError
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tests.golden.rows import golden_models
from tests.new_process import run_python

NEWEST = {path.stem: path for path in golden_models()}
MODELS = ("mixed-calibrated", "mixed-tabresnet", "three-isotonic", "regression-bins")


def test_loading_a_model_opens_one_file_and_runs_nothing(tmp_path: Path) -> None:
    document, tensors = read_artifact(NEWEST["mixed-calibrated"])
    # Every place where a file may say anything, says something hostile.
    document["card"] = {
        "target": "__import__('os').abort()",
        "module": "antigravity",
        "versions": {"tabwright": "/etc/passwd", "../../x": "http://localhost:1/"},
        "__class__": "os.system",
    }
    document["encoder"]["target_name"] = "this"
    hostile = tmp_path / "hostile.safetensors"
    hostile.write_bytes(pack(document, tensors))
    output = run_python(
        """
        import sys
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.inference.predictor import Predictor

        # Once before, so that what NumPy and polars import on first use is not counted.
        row = dict.fromkeys(load_fitted(sys.argv[1]).encoder.feature_names_in_)
        Predictor(load_fitted(sys.argv[1])).predict_row(row)
        modules = set(sys.modules)
        events = []
        sys.addaudithook(lambda name, arguments: events.append((name, str(arguments[:1]))))
        model = load_fitted(sys.argv[2])
        Predictor(model).predict_row(row)
        found = list(events)
        assert model.card["module"] == "antigravity"
        assert set(sys.modules) == modules
        assert not {"torch", "pickle", "antigravity", "this"} & (modules - {"pickle"})
        for name, argument in found:
            print(name, argument)
        """,
        str(NEWEST["mixed-calibrated"]),
        str(hostile),
    )
    # What is compiled is handed the address of a struct of our own.
    harmless = ("object.__", "ctypes.addressof")
    lines = [line for line in output.splitlines() if not line.startswith(harmless)]
    # os.open of the path, then open() of its descriptor; no exec, compile, import or socket.
    assert [line.split()[0] for line in lines] == ["open", "open"], lines
    assert str(hostile) in lines[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_of_doctored_models_is_refused_or_predicts(name: str) -> None:
    # The whole campaign: python -m campaigns.mutate_artifact --model FILE
    data = NEWEST[name].read_bytes()
    assert mutate_artifact.load_whole(data) == "accepted"
    verdicts = mutate_artifact.run(
        name,
        mutate_artifact.structured_mutants(data, 120, seed=11),
        data,
        mutate_artifact.load_whole,
    )
    assert verdicts["refused"] > 60


@pytest.mark.parametrize("name", MODELS)
def test_damaged_models_are_refused(name: str, tmp_path: Path) -> None:
    data = NEWEST[name].read_bytes()
    path = tmp_path / "model.safetensors"
    rng = random.Random(name)
    damaged = [data[: rng.randrange(len(data))] for _ in range(30)]
    for _ in range(60):
        mutant = bytearray(data)
        mutant[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        damaged.append(bytes(mutant))
    damaged += [data + b"\x00", data + data, data[1:], data[8:]]
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(ArtifactError) as caught:
            load_fitted(path)
        assert str(caught.value).startswith(str(path))


def test_every_tensor_is_needed_and_every_shape_is_checked() -> None:
    document, tensors = read_artifact(NEWEST["mixed-calibrated"])
    for name, array in tensors.items():
        lacking = {other: value for other, value in tensors.items() if other != name}
        with pytest.raises(ArtifactError):
            FittedModel.from_artifact(document, lacking)
        with pytest.raises(ArtifactError):
            FittedModel.from_artifact(document, {**tensors, name: array[None]})
        if array.dtype.kind == "f" and array.size:
            for wrong in (float("nan"), float("inf")):
                spoilt = array.copy()
                spoilt.flat[-1] = wrong
                with pytest.raises(ArtifactError):
                    FittedModel.from_artifact(document, {**tensors, name: spoilt})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("binary-mlp", {"prior": [0.5, 0.5]}, "no other arrays.*prior"),
        ("binary-mlp", {"class_prior": [0.5, 0.6]}, "must hold shares of 1"),
        ("binary-mlp", {"class_prior": [1.5, -0.5]}, "must hold numbers above 0"),
        ("binary-imbalance-prior", {"class_prior": [1.0, 0.0]}, "must hold numbers above 0"),
        ("binary-imbalance-prior", {"class_weights": None}, "class_weights.*missing"),
        ("binary-imbalance-prior", {"prior": [2.0, 2.0]}, "must hold shares of 1"),
        ("regression-bins", {"class_prior": [1.0]}, "no other arrays.*class_prior"),
    ],
)
def test_shares_and_weights_fit_the_mode(
    name: str, change: dict[str, list[float] | None], message: str
) -> None:
    document, tensors = read_artifact(NEWEST[name])
    for key, value in change.items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = np.array(value)
    with pytest.raises(ArtifactError, match=message):
        FittedModel.from_artifact(document, tensors)


def test_a_class_that_lost_all_weight_is_saved_and_loaded(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"] * 20)
    settings = FitSettings(task="classification", max_epochs=1, n_members=1, hidden_dim=4)
    frame = pl.DataFrame(draw.normal(size=(60, 2)))
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    rows = LabelledRows(frame, codes, np.where(labels == "c", 0.0, 1.0))
    model = fit_table(rows, settings, classes=np.array(["a", "b", "c"]))
    model.save(tmp_path / "model.safetensors")
    again = load_fitted(tmp_path / "model.safetensors")
    before, after = (Predictor(one).predict_proba(frame) for one in (model, again))
    np.testing.assert_array_equal(before, after)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = load_fitted(NEWEST["binary-mlp"])
    model.save(path)
    old = path.read_bytes()
    bias = np.full_like(model.members[0]["net.head.bias"], np.nan)
    broken = {**model.members[0], "net.head.bias": bias}
    with pytest.raises(ArtifactError, match="must hold no NaN"):
        replace(model, members=(broken, model.members[1])).save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small disk is a tmpfs, which root on Linux alone can mount")
    try:
        message = fill_a_disk(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine does not let a tmpfs be mounted: {error}")
    assert "cannot save: the disk is full; nothing was changed" in message


@pytest.mark.slow
def test_saves_killed_at_random_leave_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    left = kill_at_random(tmp_path, 12, seed=1)
    assert left["missing"] == left["broken"] == 0
    assert sum(left.values()) == 12
