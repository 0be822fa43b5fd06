"""What a user finds out in the first hour: one answer everywhere, and no number too good."""

from __future__ import annotations

import io
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import load_model
from tabwright.cli.app import app

runner = CliRunner()
FAST = ("--epochs", "2", "--members", "1", "--width", "8", "--quiet")


def _run(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


def _noise_sorted_by_label(path: Path, n_rows: int) -> Path:
    """Rows whose number alone tells the label, and nothing else does."""
    generator = np.random.default_rng(0)
    label = np.sort(generator.integers(0, 2, n_rows))
    number = np.arange(1, n_rows + 1)
    pl.DataFrame({"number": number, "x": generator.normal(size=n_rows), "label": label}).write_csv(
        path
    )
    return path


def test_the_labels_of_a_file_are_the_same_in_python_and_on_the_command_line(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    size = generator.normal(size=400)
    label = np.where(size + generator.normal(size=400) > 1.6, "yes", "no")
    table, model = tmp_path / "t.csv", str(tmp_path / "m.safetensors")
    pl.DataFrame({"size": size, "label": label}).write_csv(table)
    rule = ("--decision", "recall=0.9")
    _run("train", str(table), "-t", "label", "-o", model, *FAST, *rule)
    printed = pl.read_csv(io.StringIO(_run("predict", model, str(table))))["prediction"]
    estimator = load_model(model)
    frame = pl.read_csv(table)
    predicted = estimator.predict(frame)
    assert predicted.tolist() == printed.to_list()
    # The rule does something here: the most probable class is another one in many rows.
    probable = estimator.classes_[estimator.predict_proba(frame).argmax(axis=1)]
    assert (predicted != probable).sum() > 20
    one_by_one = [estimator.predict(frame[k])[0] for k in range(50)]
    assert one_by_one == predicted[:50].tolist()
    pandas = frame.to_pandas()
    assert estimator.predict(pandas.iloc[:1])[0] == predicted[0]
    accuracy = json.loads(_run("evaluate", model, str(table), "--json"))["metrics"]["accuracy"]
    assert accuracy == pytest.approx((predicted == label).mean())


@pytest.mark.parametrize("memory", [None, "1KB"])
def test_a_row_number_is_set_aside_although_rows_are_held_out(
    memory: str | None, tmp_path: Path
) -> None:
    n_rows = 1000
    table = _noise_sorted_by_label(tmp_path / "t.csv", n_rows)
    model = str(tmp_path / "m.safetensors")
    words = ("train", str(table), "-t", "label", "-o", model, *FAST)
    _run(*words, *(() if memory is None else ("--memory", memory)))
    card = json.loads(_run("inspect", model, "--json"))["card"]
    used = {column["name"]: column["used"] for column in card["columns"]}
    assert used == {"number": False, "x": True}


def test_rows_without_a_target_do_not_hide_that_a_column_numbers_the_rows(tmp_path: Path) -> None:
    table = _noise_sorted_by_label(tmp_path / "t.csv", 300)
    frame = pl.read_csv(table).with_columns(
        pl.when(pl.col("number") % 7 > 0).then(pl.col("label")).alias("label")
    )
    frame.write_csv(table)
    model = str(tmp_path / "m.safetensors")
    _run("train", str(table), "-t", "label", "--drop-null-target", "-o", model, *FAST)
    card = json.loads(_run("inspect", model, "--json"))["card"]
    assert [column["name"] for column in card["columns"] if column["used"]] == ["x"]


def test_compare_and_distill_set_row_numbers_aside_too(tmp_path: Path) -> None:
    table = _noise_sorted_by_label(tmp_path / "t.csv", 400)
    words = ("-t", "label", "--epochs", "5", "--quiet")
    compared = json.loads(
        _run("compare", str(table), *words, "--members", "1", "--folds", "3", "--json")
    )
    # Folds of noise: an AUC far from a half would be the row number's.
    assert len(compared["candidates"]) >= 6
    for candidate in compared["candidates"]:
        assert abs(candidate["means"]["auc"] - 0.5) < 0.15, candidate["name"]
    student = str(tmp_path / "s.safetensors")
    _run("distill", "random_forest", str(table), *words, "-o", student)
    card = json.loads(_run("inspect", student, "--json"))["card"]
    assert [column["name"] for column in card["columns"] if column["used"]] == ["x"]


def _labelled(path: Path, n_rows: int = 300) -> Path:
    generator = np.random.default_rng(0)
    size = generator.normal(size=n_rows)
    label = np.where(size + generator.normal(size=n_rows) > 0.5, "yes", "no")
    kind = generator.choice(["red", "green"], size=n_rows)
    price = 100 * size + generator.normal(size=n_rows)
    pl.DataFrame({"size": size, "kind": kind, "label": label, "price": price}).write_csv(path)
    return path


def _flat(text: str) -> str:
    return " ".join(text.split())


def test_a_model_or_report_of_something_else_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _labelled(tmp_path / "t.csv")
    _labelled(tmp_path / "other.csv")
    first = ("train", "t.csv", "-t", "label", *FAST[:-1], "-o", "m.safetensors")
    _run(*first, "--report", "r.html")
    before = (tmp_path / "m.safetensors").read_bytes(), (tmp_path / "r.html").read_bytes()
    other_target = ("train", "t.csv", "-t", "price", *FAST[:-1])
    refusal = _flat(_run(*other_target, "-o", "m.safetensors", code=2))
    assert "of the target 'label', this one of 'price'; give --overwrite" in refusal
    other_table = ("train", "other.csv", "-t", "label", *FAST[:-1], "-o", "m.safetensors")
    assert "of the table 't', this one of 'other'" in _flat(_run(*other_table, code=2))
    student = ("distill", "catboost", "other.csv", "-t", "label", "-o", "m.safetensors")
    assert "of the table 't', this one of 'other'" in _flat(_run(*student, code=2))
    refusal = _flat(_run(*other_target, "-o", "n.safetensors", "--report", "r.html", code=2))
    assert "no report on 'price' of t.csv; got r.html; give --overwrite" in refusal
    (tmp_path / "x.safetensors").write_bytes(b"something else")
    refusal = _flat(_run(*other_target, "-o", "x.safetensors", code=2))
    assert "a file that is no model; got x.safetensors" in refusal
    assert before == ((tmp_path / "m.safetensors").read_bytes(), (tmp_path / "r.html").read_bytes())
    assert not (tmp_path / "n.safetensors").exists()
    # The same table and target again is what one does all day; it is said.
    said = _flat(_run(*first, "--report", "r.html"))
    assert "replacing m.safetensors, an earlier model of the same table and target" in said
    _run(*other_target, "-o", "m.safetensors", "--report", "r.html", "--overwrite")
    assert "price" in _run("inspect", "m.safetensors")


@pytest.mark.parametrize("name", ["m.pkl", "m.onnx", "m.html"])
def test_a_model_is_not_written_under_the_name_of_another_format(name: str, tmp_path: Path) -> None:
    table, model = _labelled(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    words = ("train", str(table), "-t", "label", *FAST)
    refusal = _flat(_run(*words, "-o", str(tmp_path / name), code=2))
    assert "must be named .safetensors" in refusal
    _run(*words, "-o", str(model))
    with pytest.raises(ValueError, match=r"must be named \.safetensors"):
        load_model(model).save(tmp_path / name)
    if name != "m.onnx":
        refusal = _flat(_run("export", str(model), str(tmp_path / name), code=2))
        assert "must be named .onnx" in refusal
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.safetensors", "t.csv"]


@pytest.mark.parametrize(
    ("words", "got"),
    [((), "none"), (("a.onnx", "-o", "b.onnx"), "a.onnx and b.onnx")],
)
def test_the_graph_to_write_is_named_once(words: tuple[str, ...], got: str, tmp_path: Path) -> None:
    refusal = _flat(_run("export", str(tmp_path / "m.safetensors"), *words, code=2))
    assert "as the second argument or with -o" in refusal
    assert f"got {got};" in refusal


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("compare", "--mode", "mlp"), "got 'mlp'; did you mean 'mlp_dense'?"),
        (("compare", "--metric", "logloss"), "got 'logloss'; did you mean 'log_loss'?"),
        (("compare", "--mode", "mlp_dense", "--no-references"), "at least 2 candidates"),
        (("tune", "--mode", "mlp"), "got 'mlp'; did you mean 'mlp_dense'?"),
        (("distill", "catbost"), "which is no file; did you mean 'catboost'?"),
    ],
)
def test_a_near_name_is_told_before_the_table_is_read(
    words: tuple[str, ...], answer: str, tmp_path: Path
) -> None:
    command, *rest = words
    teacher = [rest.pop(0)] if command == "distill" else []
    # Only names: that there are no rows would be told once it is read.
    table = tmp_path / "t.csv"
    table.write_text("size,label\n")
    assert answer in _flat(_run(command, *teacher, str(table), "-t", "label", *rest, code=2))


def test_an_option_of_one_value_is_given_once(tmp_path: Path) -> None:
    table = str(_labelled(tmp_path / "t.csv"))
    refusal = _flat(_run("train", table, "-t", "label", "--target", "price", code=2))
    assert "--target can be given once; it came twice" in refusal


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--lr", "0.1"), "Possible options: --learning-rate"),
        (("--n-members", "3"), "Possible options: --members"),
        (("--hidden-dim", "3"), "Possible options: --width"),
        (("--num-layers", "3"), "Possible options: --depth"),
        (("--mode", "mlp"), "--mode must be one of mlp_dense, "),
        (("--mode", "mlp"), "got 'mlp'; did you mean 'mlp_dense'?"),
        (("--task", "regresion"), "got 'regresion'; did you mean 'regression'?"),
        (
            ("--mode", "tree_teacher_distillation", "--teacher", "catbost"),
            "got 'catbost'; did you mean 'catboost'?",
        ),
        (("--quality", "bset"), "got 'bset'; did you mean 'best'?"),
        (("--device", "gpu"), "--device must be 'auto', 'cpu' or 'cuda'; got 'gpu'"),
        (("--decision", "recal=0.9"), "got 'recal=0.9'; did you mean 'recall'?"),
        (("--role", "kind=categry"), "got 'kind=categry'; did you mean 'category'?"),
        (("--epochs", "0"), "--epochs must be an integer of at least 1; got 0"),
        (("--members", "0"), "--members must be an integer from 1 to 1024; got 0"),
        (("--learning-rate", "0"), "--learning-rate must be a number above 0; got 0"),
        (("--numeric-encoding", "ple"), "--numeric-encoding must be one of auto, "),
        (("--threads", "0"), "--threads must be at least 1; got 0"),
        (("--seed", "-1"), "--seed must be an integer from 0"),
    ],
)
def test_errors_speak_of_options(words: tuple[str, ...], answer: str, tmp_path: Path) -> None:
    table = str(_labelled(tmp_path / "t.csv"))
    refusal = _flat(_run("train", table, "-t", "label", *words, code=2))
    assert answer in refusal
    for name in ("training_mode", "max_epochs", "n_members", "None", "random_state"):
        assert name not in refusal


def test_depth_is_called_the_same_everywhere(tmp_path: Path) -> None:
    table, model = str(_labelled(tmp_path / "t.csv")), str(tmp_path / "s.safetensors")
    words = ("distill", "random_forest", table, "-t", "label", "--drop", "price", "--epochs", "1")
    said = _flat(_run(*words, "--layers", "2", "-o", model))
    assert "note: --layers is called --depth now" in said
    document = json.loads(_run("inspect", model, "--json"))
    assert document["settings"]["num_hidden_layers"] == 2
    _run(*words, "--depth=1", "-o", model)
    document = json.loads(_run("inspect", model, "--json"))
    assert document["settings"]["num_hidden_layers"] == 1


def test_a_run_is_repeated_from_its_settings_file(tmp_path: Path) -> None:
    table = str(_labelled(tmp_path / "t.csv"))
    config, one, two = (str(tmp_path / name) for name in ("c.toml", "1.safetensors", "2"))
    words = ("train", table, "-t", "label", "--drop", "price,kind", *FAST, "--dropout", "0.25")
    _run(*words, "-o", one, "--save-config", config)
    text = Path(config).read_text()
    assert 'target = "label"' in text
    assert "dropout = 0.25" in text
    assert 'drop = ["price", "kind"]' in text
    assert tomllib.loads(text).keys() == {
        "table",
        "target",
        "drop",
        "epochs",
        "members",
        "width",
    } | {
        "dropout",
        "output",
    }
    _run("train", "--config", config, "-o", two)
    documents = [json.loads(_run("inspect", model, "--json")) for model in (one, two)]
    assert documents[0]["settings"] == documents[1]["settings"]
    assert documents[0]["metrics"] == documents[1]["metrics"]
    # Where defaults changed, the comments have those of the run.
    assert "# seed = 0\n" in text
    assert "# learning-rate = 0.002\n" in text
    assert "# patience = 0\n" in text
    assert '# eval-metric = "loss"\n' in text
    Path(config).write_text(re.sub("^# (?=[a-z-]+ = )", "", text, flags=re.MULTILINE))
    assert {"seed", "patience", "eval-metric"} <= tomllib.loads(Path(config).read_text()).keys()
    _run("train", "--config", config, "-o", two)
    document = json.loads(_run("inspect", two, "--json"))
    assert document["settings"] == documents[0]["settings"]
    assert document["metrics"] == documents[0]["metrics"]
    Path(config).write_text(text)
    # What is said on the command line comes first.
    _run("train", "--config", config, "-o", two, "--dropout", "0.5")
    assert json.loads(_run("inspect", two, "--json"))["settings"]["dropout"] == 0.5
    Path(config).write_text('targt = "label"\n')
    refusal = _flat(_run("train", table, "--config", config, code=2))
    assert "got 'targt'; did you mean 'target'?" in refusal
    Path(config).write_text('drop = "price"\n')
    refusal = _flat(_run("train", table, "-t", "label", "--config", config, code=2))
    assert "must be a list" in refusal
    refusal = _flat(_run("train", table, "--config", str(tmp_path / "none.toml"), code=2))
    assert "--config: there is no file" in refusal
    Path(config).write_text("drop = ")
    refusal = _flat(_run("train", table, "--config", config, code=2))
    assert "--config must be a TOML file" in refusal


@pytest.mark.parametrize("options", [(), ("--objective", "quantile"), ("--quality", "best")])
def test_a_regression_is_repeated_with_what_it_took_besides(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "".join(f"{k % 13}.5,{k % 7}\n" for k in range(90)))
    config, one, two = (str(tmp_path / name) for name in ("c.toml", "1.safetensors", "2"))
    words = ("train", str(table), "-t", "a", "--task", "regression", *FAST, *options)
    _run(*words, "-o", one, "--save-config", config)
    text = re.sub("^# (?=[a-z-]+ = )", "", Path(config).read_text(), flags=re.MULTILINE)
    Path(config).write_text(text)
    _run("train", "--config", config, "-o", two)
    documents = [json.loads(_run("inspect", model, "--json")) for model in (one, two)]
    assert documents[0]["settings"] == documents[1]["settings"]
    assert documents[0]["metrics"] == documents[1]["metrics"]


def test_a_settings_file_proposes_nothing_that_changes_the_run(tmp_path: Path) -> None:
    table, config = str(_labelled(tmp_path / "t.csv")), tmp_path / "c.toml"
    words = ("train", table, "-t", "label", "--epochs", "2", "-o", str(tmp_path / "m.safetensors"))
    options = ("--overwrite", "--save-config", str(config), "--drop", "price,kind")
    printed = _flat(_run(*words, *options, "--quality", "fast"))
    assert "replacing" not in printed
    assert "# members = 1\n" in config.read_text()
    replaced = f"replacing {config}, as asked"
    assert replaced in _flat(_run(*words, *options, "--quality", "fast", "--folds", "2"))
    text = config.read_text()
    # A number of networks, asked for, would turn the folds off.
    assert "members" not in text
    assert "# width" in text
    _run(*words, *options, "--mode", "linear_glm_baseline")
    assert not any(name in config.read_text() for name in ("width", "depth", "dropout"))


def test_zeros_and_noes_are_repeated_too(tmp_path: Path) -> None:
    table, config = tmp_path / "t.csv", tmp_path / "c.toml"
    table.write_text("1,2\n2,3\n3,5\n" * 30)
    options = ("--no-header", "--no-quotes", "--dropout", "0", "--test-fraction", "0")
    words = ("-t", "column_1", "--task", "regression", *FAST, *options, "--patience", "0")
    one, two = str(tmp_path / "1.safetensors"), str(tmp_path / "2.safetensors")
    _run("train", str(table), *words, "-o", one, "--save-config", str(config))
    settings = tomllib.loads(config.read_text())
    assert settings["header"] is settings["quotes"] is False
    assert settings["dropout"] == settings["test-fraction"] == settings["patience"] == 0
    _run("train", "--config", str(config), "-o", two)
    documents = [json.loads(_run("inspect", model, "--json")) for model in (one, two)]
    assert documents[0]["settings"] == documents[1]["settings"]
    assert documents[0]["metrics"] == documents[1]["metrics"]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ('epochs = "many"', "'epochs' in the file of --config must be an integer; got 'many'"),
        ("epochs = 2.5", "'epochs' in the file of --config must be an integer; got 2.5"),
        ('dropout = "x"', "'dropout' in the file of --config must be a number; got 'x'"),
        ("epochs = true", "must be a value, neither true nor false; got True"),
        ('refit = "yes"', "must be true or false; got 'yes'"),
    ],
)
def test_values_of_a_settings_file_are_checked(line: str, refusal: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(line)
    table = str(_labelled(tmp_path / "t.csv"))
    words = ("train", table, "-t", "label", "--config", str(tmp_path / "c.toml"))
    assert refusal in _flat(_run(*words, code=2))


def test_predict_gives_what_is_asked_for_and_says_what_is_strange(tmp_path: Path) -> None:
    table, model = _labelled(tmp_path / "t.csv"), str(tmp_path / "m.safetensors")
    _run("train", str(table), "-t", "label", "--drop", "price", "-o", model, *FAST)
    labels = _run("predict", model, str(table), "--labels-only").splitlines()
    assert labels[0] == "prediction"
    assert set(labels[1:]) <= {"yes", "no"}
    low = pl.read_csv(io.StringIO(_run("predict", model, str(table), "--threshold", "0.2")))
    expected = np.where(low["probability_yes"].to_numpy() >= 0.2, "yes", "no")
    assert low["prediction"].to_list() == expected.tolist()
    short = _run("predict", model, str(table), "--digits", "3").splitlines()
    assert max(len(cell) for cell in short[1].split(",")) <= len("0.00123")
    refusal = _flat(_run("predict", model, str(table), "--threshold", "2", code=2))
    assert "--threshold must be in [0, 1]" in refusal
    new = tmp_path / "new.csv"
    new.write_text("size,kind\n" + "1700,mauve\n" * 30)
    result = runner.invoke(app, ["predict", model, str(new)])
    assert "note: size: all 30 cells are far past the range of training" in result.stderr
    assert "note: kind: all 30 cells are of levels that training had" in result.stderr
    assert len(result.stdout.splitlines()) == 31
    out = str(tmp_path / "out.csv")
    summary = json.loads(_run("predict", model, str(new), "--json", "-o", out))
    assert [text.partition(":")[0] for text in summary["warnings"]] == ["size", "kind"]
    assert json.loads(_run("predict", model, str(table), "--json", "-o", out))["warnings"] == []


def test_evaluate_tells_that_rows_are_those_of_training(tmp_path: Path) -> None:
    table, model = _labelled(tmp_path / "t.csv"), str(tmp_path / "m.safetensors")
    _run("train", str(table), "-t", "label", "--drop", "price", "-o", model, *FAST)
    said = _flat(_run("evaluate", model, str(table)))
    assert "of the 300 rows are rows that the model was trained on" in said


def test_quiet_prints_the_results(tmp_path: Path) -> None:
    table, model = _labelled(tmp_path / "t.csv"), str(tmp_path / "m.safetensors")
    said = _run("train", str(table), "-t", "label", "--drop", "price", "-o", model, *FAST)
    assert "log_loss" in said
    assert "read 300 rows" not in said
    assert "saved" not in said


def test_quiet_prints_warnings(tmp_path: Path) -> None:
    frame = pl.read_csv(_labelled(tmp_path / "t.csv")).drop("price")
    frame.with_columns(answer=pl.col("label")).write_csv(tmp_path / "t.csv")
    words = ("-t", "label", "-o", str(tmp_path / "m.safetensors"), *FAST)
    said = _flat(_run("train", str(tmp_path / "t.csv"), *words))
    assert "warning: column 'answer' alone tells the target 'label'" in said
    assert "calibration: " not in said


def test_importance_names_the_column_that_matters_first(tmp_path: Path) -> None:
    table, model = _labelled(tmp_path / "t.csv"), str(tmp_path / "m.safetensors")
    words = ("--epochs", "30", "--members", "1", "--quiet")
    _run("train", str(table), "-t", "label", "--drop", "price", "-o", model, *words)
    found = json.loads(_run("importance", model, str(table), "--json"))
    assert found["loss"] == "log_loss"
    assert [column["name"] for column in found["columns"]] == ["size", "kind"]
    assert found["columns"][0]["mean"] > 0.02
    shown = _run("importance", model, str(table), "--repeats", "2").splitlines()
    assert shown[0] == "m.safetensors on 300 rows, 2 shuffles a column"
    assert shown[2].startswith("size")
    numbers = [cell for line in shown[2:] for cell in line.split()[1:]]
    assert len({len(cell.partition(".")[2]) for cell in numbers}) == 1


def test_names_are_whole_in_a_pipe(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    name = "a_column_" + "of_a_long_name_" * 8
    pl.read_csv(_labelled(table)).rename({"size": name}).write_csv(table)
    model = str(tmp_path / "m.safetensors")
    _run("train", str(table), "-t", "label", "--drop", "price", "-o", model, *FAST)
    assert any(
        line.startswith(f"{name} ") for line in _run("importance", model, str(table)).splitlines()
    )


def test_intervals_need_no_task_where_the_target_says_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 2)).round(3)
    table = pl.DataFrame({"x": values[:, 0], "y": values.sum(axis=1).round(4)})
    table.write_csv(tmp_path / "t.csv")
    words = ["train", str(tmp_path / "t.csv"), "-t", "y", "--epochs", "1", "--quality", "fast"]
    words += ["-o", str(tmp_path / "m.safetensors"), "--intervals", "adaptive"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    table.with_columns(y=pl.Series(["a", "b"] * 150)).write_csv(tmp_path / "t.csv")
    refused = CliRunner().invoke(app, [*words, "--overwrite"])
    assert refused.exit_code == 2
    assert "intervals are for regression" in " ".join(refused.output.split())
