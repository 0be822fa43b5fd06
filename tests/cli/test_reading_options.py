"""Tables from a pipe, compressed, in another encoding, and what the command line says of them."""

import bz2
import gzip
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tabwright import TableError, TabularClassifier
from tabwright.cli.app import app
from tabwright.tables import CsvFormat, iter_tables, read_described, read_table
from tests.encoders import input_names
from tests.packages import ROOT

TEXT = "x,y\n" + "".join(f"{i / 7:.2f},{'ab'[i % 2]}\n" for i in range(120))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    (path / "t.csv").write_text(TEXT)
    model = TabularClassifier(n_members=1, max_epochs=1, random_state=0)
    model.fit_file(path / "t.csv", "y").save(path / "m.safetensors")
    return path


def _run(*words: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tabwright", *map(str, words)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def _zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_csv", ".csv"), text)
    return path


def test_a_table_comes_through_a_pipe(folder: Path) -> None:
    wanted = _run("predict", folder / "m.safetensors", folder / "t.csv").stdout
    assert wanted.count("\n") == 121
    for source in ("-", "/dev/stdin"):
        done = _run("predict", folder / "m.safetensors", source, given=TEXT)
        assert (done.returncode, done.stdout) == (0, wanted), done.stderr
    words = ("--target", "y", "--epochs", "1", "--members", "1", "-o", folder / "p.safetensors")
    done = _run("train", "-", *words, given=TEXT)
    assert done.returncode == 0, done.stderr
    assert (folder / "p.safetensors").exists()


def test_a_pipe_with_a_name_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["cp", str(_text(tmp_path)), str(pipe)])
    assert read_table(pipe).height == 120
    assert writer.wait() == 0


def _text(folder: Path, name: str = "t.csv") -> Path:
    (folder / name).write_text(TEXT)
    return folder / name


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.bz2", "t.csv.xz", "t.csv.zst", "t.csv"])
@pytest.mark.parametrize("packing", ["gzip", "bz2", "lzma", "zstandard", "zip"])
def test_compressed_files_are_told_by_content(tmp_path: Path, packing: str, name: str) -> None:
    path = tmp_path / name
    if packing == "zip":
        _zipped(path, t_csv=TEXT)
    elif packing == "zstandard":
        path.write_bytes(pytest.importorskip("zstandard").compress(TEXT.encode()))
    else:
        path.write_bytes({"gzip": gzip, "bz2": bz2, "lzma": lzma}[packing].compress(TEXT.encode()))
    assert read_table(path).equals(read_table(_text(tmp_path, "plain.csv")))
    assert sum(piece.height for piece in iter_tables(path, batch_rows=50)) == 120


def test_a_zip_file_holds_one_table(tmp_path: Path) -> None:
    assert read_table(_zipped(tmp_path / "t.zip", t_csv=TEXT)).height == 120
    apple = _zipped(tmp_path / "a.zip", t_csv=TEXT, **{"__MACOSX/t.csv": "x"})
    assert read_table(apple).height == 120
    with pytest.raises(TableError, match="must hold one table; got 2 files"):
        read_table(_zipped(tmp_path / "two.zip", a_csv=TEXT, b_csv=TEXT))
    book = _zipped(tmp_path / "book.csv", **{"[Content_Types].xml": ""})
    with pytest.raises(TableError, match=r"an Excel workbook by its content"):
        read_table(book)
    (tmp_path / "no.zip").write_bytes(b"PK\3\4 and nothing else")
    with pytest.raises(TableError, match="must be a whole zip file"):
        read_table(tmp_path / "no.zip")


def test_western_text_is_read_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("stadt,n\nZürich,1\nKöln,2\n".encode("cp1252"))
    with pytest.warns(UserWarning, match="not UTF-8, and is read as cp1252"):
        frame = read_table(path)
    assert frame["stadt"].to_list() == ["Zürich", "Köln"]
    assert read_table(path, csv=CsvFormat(encoding="latin-1")).equals(frame)


NAMIBIA = "country,x,y\n" + "".join(
    f"{['NA', 'ZA', ''][i % 3]},{i % 7},{'ab'[i % 3 == 0]}\n" for i in range(300)
)


@pytest.mark.parametrize("memory", ["1GB", "1KB"])
def test_na_can_be_a_value(tmp_path: Path, memory: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(NAMIBIA)
    said = CsvFormat(missing=())
    # A network tells all values apart; trees only those that matter.
    model = TabularClassifier(quality="fast", max_epochs=1, random_state=0)
    model.fit_file(path, "y", csv=said, memory=memory)
    names = list(input_names(model.model_.encoder))
    assert "country=NA" in names
    rows = [{"country": "NA", "x": 1}, {"country": "ZA", "x": 1}, {"country": "", "x": 1}]
    assert len({tuple(p) for p in model.predict_proba(rows).round(12).tolist()}) == 3
    frame = read_described(path, csv=said).frame
    assert frame["country"].null_count() == 100
    assert read_table(path)["country"].null_count() == 200


def test_na_can_be_a_label(tmp_path: Path) -> None:
    path, model = tmp_path / "t.csv", str(tmp_path / "m.safetensors")
    path.write_text(NAMIBIA.replace(",,", ",DE,").replace("\n,", "\nDE,"))
    words = ["--target", "country", "--epochs", "1", "--members", "1", "-o", model]
    refused = CliRunner().invoke(app, ["train", str(path), *words])
    assert refused.exit_code == 3
    done = CliRunner().invoke(app, ["train", str(path), *words, "--missing", ""])
    assert done.exit_code == 0, done.output
    scored = CliRunner().invoke(app, ["evaluate", model, str(path)])
    assert scored.exit_code == 0, scored.output
    assert "300 rows" in scored.output


def test_options_of_reading(tmp_path: Path) -> None:
    path, model = tmp_path / "t.csv", str(tmp_path / "m.safetensors")
    rows = "".join(
        f"Z{'üö'[i % 2]}|1.{i % 10 + 100},5|00{i % 3}|{'ab'[i % 2]}\n" for i in range(150)
    )
    path.write_bytes(rows.encode("cp1252"))
    reading = ["--no-header", "--encoding", "cp1252", "--delimiter", "|", "--decimal", ","]
    words = ["--target", "column_4", "--epochs", "1", "--members", "1", "-o", model]
    role = ["--role", "column_3=category"]
    done = CliRunner().invoke(app, ["train", str(path), *words, *reading, *role])
    assert done.exit_code == 0, done.output
    predicted = CliRunner().invoke(app, ["predict", model, str(path), *reading])
    assert predicted.exit_code == 0, predicted.output
    inspected = CliRunner().invoke(app, ["inspect", model, "--json"])
    assert '"decimal": ","' in inspected.output
    for wrong, word in (
        (["--decimal", ";"], "--decimal must be . or ,"),
        (["--encoding", "tree_ple"], "--numeric-encoding"),
        (["--role", "a"], "COLUMN=ROLE"),
    ):
        failed = CliRunner().invoke(app, ["train", str(path), *words, *wrong])
        assert failed.exit_code == 2
        assert word in failed.output + failed.stderr


def test_what_is_noted_of_a_file_is_noted_once(tmp_path: Path) -> None:
    # The names of the columns are read before the rows are. In a process of its own: packages that
    # are imported in between have Python forget which warnings it has shown.
    rows = "".join(f"{k},{'grün' if k % 3 else 'rot'},{k % 2}\n" for k in range(60))
    (tmp_path / "t.csv").write_bytes(f"n,art,y\n{rows}".encode("cp1252"))
    words = ["train", "t.csv", "-t", "y", "-o", "m.safetensors", "--epochs", "1", "--members", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tabwright", *words, "--width", "4", "--quality", "fast"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is not UTF-8, and is read as cp1252") == 1
