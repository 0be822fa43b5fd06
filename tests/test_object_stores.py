"""Tables in an object store, against an S3 endpoint of this machine that holds real objects."""

from __future__ import annotations

import gzip
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from tabwright import object_stores
from tabwright.cli.app import app
from tabwright.errors import TableError, TableNotFoundError, install_command
from tabwright.object_stores import StoredObject, find_objects, put_object
from tabwright.streaming.chunks import FilesTable
from tabwright.streaming.memory import memory_needed
from tabwright.tables import iter_tables, read_table, table_dtypes
from tabwright.tables.csv.reader import CsvFormat
from tabwright.tables.file_readers import count_rows, file_pieces
from tabwright.tables.paths import table_paths
from tests.conftest import S3_ACCOUNT


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        **S3_ACCOUNT,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Any:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="tables")
    yield client
    client.close()


@pytest.fixture
def put(endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stores bytes or a frame under a key; returns its URI."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    def store(key: str, content: bytes | pl.DataFrame, **options: Any) -> str:
        if isinstance(content, pl.DataFrame):
            buffer = io.BytesIO()
            write: Any = {
                "parquet": content.write_parquet,
                "csv": content.write_csv,
                "jsonl": content.write_ndjson,
                "arrow": content.write_ipc,
            }[key.rpartition(".")[2]]
            write(buffer, **options)
            content = buffer.getvalue()
        bucket.put_object(Bucket="tables", Key=key, Body=content)
        return f"s3://tables/{key}"

    return store


def _frame(n_rows: int, seed: int = 0) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    size = draw.normal(size=n_rows)
    kind = draw.choice(["red", "green", "blue"], size=n_rows)
    label = np.where(size + (kind == "red") + draw.normal(size=n_rows) > 0.4, "yes", "no")
    return pl.DataFrame(
        {"id": [f"r{n}" for n in range(n_rows)], "size": size, "kind": kind, "label": label}
    )


def _every_type() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "a.b": [1, None, 3],
            "a": [1.5, None, float("nan")],
            "text": ["x", None, ""],
            "yes": [True, None, False],
            "day": [date(2020, 1, 1), None, date(2021, 2, 3)],
            "at": [datetime(2020, 1, 1, 5, tzinfo=UTC), None, None],
            "money": [Decimal("1.50"), None, Decimal("2.25")],
            "none": [None, None, None],
            "small": pl.Series([1, 2, None], dtype=pl.UInt8),
            "level": pl.Series(["u", "v", None], dtype=pl.Categorical),
        }
    )


@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_parquet_is_read_as_from_a_folder(put: Any, tmp_path: Path, row_group_size: int) -> None:
    frame = _every_type()
    uri = put("types.parquet", frame, row_group_size=row_group_size)
    here = tmp_path / "types.parquet"
    frame.write_parquet(here, row_group_size=row_group_size)
    assert_frame_equal(read_table(uri), read_table(here))
    assert table_dtypes(uri) == table_dtypes(here)
    for batch_rows in (1, 2, 7):
        ours = list(iter_tables(uri, batch_rows=batch_rows))
        theirs = list(iter_tables(here, batch_rows=batch_rows))
        assert [len(piece) for piece in ours] == [len(piece) for piece in theirs]
        assert_frame_equal(pl.concat(ours), pl.concat(theirs))
    assert_frame_equal(read_table(uri, columns=["a"]), read_table(here, columns=["a"]))


def test_chunks_that_are_not_wanted_are_not_read(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"n": range(1000)})
    (stored,) = table_paths(put("thousand.parquet", frame, row_group_size=100))
    assert count_rows(stored) == 1000
    import pyarrow.parquet

    read: list[int] = []
    whole = pyarrow.parquet.ParquetFile.read_row_group

    def counted(self: Any, number: int, **options: Any) -> Any:
        read.append(number)
        return whole(self, number, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", counted)
    pieces = list(file_pieces(stored, None, CsvFormat(), 150, lambda number: number % 3 == 1))
    assert [piece["n"].to_list() for piece in pieces] == [
        list(range(150, 300)),
        list(range(600, 750)),
    ]
    assert read == [1, 2, 6, 7]
    read.clear()
    assert pl.concat(file_pieces(stored, None, CsvFormat(), 30))["n"].to_list() == list(range(1000))
    assert read == list(range(10))  # each once, though three chunks and more lie in it


@pytest.mark.parametrize("key", ["t.csv", "t.csv.gz", "t.jsonl", "t.arrow"])
def test_other_formats(put: Any, tmp_path: Path, key: str) -> None:
    frame = _frame(50)
    content: Any = frame
    if key.endswith(".gz"):
        content = gzip.compress(frame.write_csv().encode())
    assert_frame_equal(read_table(put(f"formats/{key}", content)), frame)
    pieces = list(iter_tables(f"s3://tables/formats/{key}", batch_rows=20))
    assert [len(piece) for piece in pieces] == [20, 20, 10]


def test_folders_patterns_and_lists(put: Any) -> None:
    first, second = _frame(5), _frame(7, seed=1)
    put("many/a.parquet", first)
    put("many/b.parquet", second)
    put("many/_SUCCESS", b"")
    put("many/.hidden.parquet", b"x")
    put("many/notes.md", b"x")
    put("many/deeper/c.parquet", first)
    both = pl.concat([first, second])
    assert_frame_equal(read_table("s3://tables/many"), both)
    assert_frame_equal(read_table("s3://tables/many/"), both)
    assert_frame_equal(read_table("s3://tables/many/[ab].parquet"), both)
    assert_frame_equal(read_table("s3://tables/m*y/?.parquet"), both)
    assert_frame_equal(read_table("s3://tables/many/*/c.parquet"), first)
    mixed = ["s3://tables/many/b.parquet", "s3://tables/many/a.parquet"]
    assert_frame_equal(read_table(mixed), pl.concat([second, first]))
    table = FilesTable.of("s3://tables/many")
    assert [table.name(0), table.name(1)] == ["a.parquet", "b.parquet"]
    assert memory_needed("s3://tables/many") > 0


def test_the_index_of_a_pandas_frame_is_no_column(put: Any) -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"n": [1, 2]}, index=pd.Index(["a", "b"], name="who")).to_parquet(buffer)
    uri = put("pandas.parquet", buffer.getvalue())
    assert read_table(uri).columns == ["n"]
    assert next(iter(iter_tables(uri))).columns == ["n"]


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("s3://nobucket/t.csv", "there is no bucket 'nobucket', which s3://nobucket/t.csv lies in"),
        ("s3://nobucket/*.csv", "there is no bucket 'nobucket'|no object matches"),
        ("s3://tables/faults/tabel.csv", r"no object and no folder .*did you mean 'table.csv'"),
        ("s3://tables/zzz/q.csv", "the bucket 'tables' is there"),
        ("s3://tables/faults/q*.csv", "no object matches the pattern s3://tables/faults/q"),
        ("s3://tables/faults/**/q.csv", r"without \*\*; got s3://tables/faults/"),
        ("s3://tables/nothing", "the folder s3://tables/nothing has no table in it"),
        ("s3://", "must be named as s3://bucket/key"),
        ("s3://tables/faults/book.xlsx", "must lie on this machine; got .*download it first"),
        ("s3://tables/faults/cut.parquet", "cut.parquet must be a whole parquet file"),
        ("s3://tables/faults/empty.csv", "empty.csv"),
        ("s3://tables/columns", r"two.parquet has the column 'more' too, unlike .*one.parquet"),
        ("s3://tables/types", r"column 'n' of s3://tables/types/two.parquet is String, and Int64"),
    ],
)
@pytest.mark.parametrize("reader", [read_table, table_dtypes])
def test_faults_name_the_object(put: Any, source: str, rule: str, reader: Any) -> None:
    put("faults/table.csv", b"a\n1\n")
    put("faults/book.xlsx", b"PK")
    put("faults/cut.parquet", b"PAR1 and no more")
    put("faults/empty.csv", b"")
    put("nothing/readme.md", b"x")
    for folder, other in (("columns", {"n": [1], "more": [2]}), ("types", {"n": ["x"]})):
        put(f"{folder}/one.parquet", pl.DataFrame({"n": [1]}))
        put(f"{folder}/two.parquet", pl.DataFrame(other))
    with pytest.raises(TableError, match=rule):
        reader(source)


def test_a_table_without_rows(put: Any) -> None:
    uri = put("rowless.parquet", pl.DataFrame({"n": pl.Series([], dtype=pl.Int64)}))
    for reader in (read_table, lambda source: list(iter_tables(source))):
        with pytest.raises(TableError, match=r"rowless.parquet has no rows"):
            reader(uri)


def test_credentials_that_are_refused(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put("secret/t.csv", b"a\n1\n")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr("moto.core.responses.ActionAuthenticatorMixin.request_count", 0)
    for source in (uri, "s3://tables/secret", "s3://tables/secret/*.csv"):
        with pytest.raises(TableError, match=r"it refused them .*check the keys") as caught:
            read_table(source)
        assert str(caught.value).startswith(f"{source}: ")


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TableError, match=r"s3://tables/t.csv: the store must answer; it did not"):
        read_table("s3://tables/t.csv")


@pytest.fixture
def _google(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Google's store on this machine, with an empty bucket `tables`."""
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is absent")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{port}")
    # In a process of its own: who reads holds the interpreter's lock.
    run = f"""from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", {port}, in_memory=True, default_bucket="tables")
server.start()
print("started", flush=True)"""
    with subprocess.Popen(
        [sys.executable, "-c", run], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"started\n"
        yield
        server.terminate()


@pytest.mark.usefixtures("_google")
def test_google_s_store_holds_tables_too(tmp_path: Path) -> None:
    frame = _frame(50)
    for part, name in ((frame[:20], "a"), (frame[20:], "b")):
        buffer = io.BytesIO()
        part.write_parquet(buffer)
        put_object(f"gs://tables/rows/{name}.parquet", buffer.getvalue())
    put_object("gs://tables/rows.csv", frame.write_csv().encode())
    for source in ("gs://tables/rows", "gs://tables/rows/*.parquet", "gs://tables/rows.csv"):
        assert_frame_equal(read_table(source), frame)
    assert sum(len(part) for part in iter_tables("gs://tables/rows")) == len(frame)
    words = ["train", "gs://tables/rows", "--target", "label", "--drop", "id", "--epochs", "1"]
    words += ["--quality", "fast", "--members", "1", "-o", str(tmp_path / "model.safetensors")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    object_stores.remove_object("gs://tables/rows/b.parquet")
    assert_frame_equal(read_table("gs://tables/rows"), frame[:20])


@pytest.mark.usefixtures("_google")
def test_what_google_s_store_does_not_have() -> None:
    put_object("gs://tables/rows.csv", b"a\n1\n")
    for source, rule in (
        ("gs://tables/row.csv", r"no object and no folder gs://tables/row.csv; .*'rows.csv'"),
        ("gs://tables/*.parquet", r"no object matches the pattern gs://tables/\*.parquet"),
        ("gs://other/rows.csv", "there is no bucket 'other', which gs://other/rows.csv lies in"),
        ("gs://other", "there is no bucket 'other', which gs://other lies in"),
        ("gs://other/*.csv", "there is no bucket 'other'|no object matches the pattern"),
    ):
        with pytest.raises(TableNotFoundError, match=rule):
            read_table(source)
    with pytest.raises(TableError, match=r"gs://other/t\.csv|no bucket 'other'"):
        put_object("gs://other/t.csv", b"a\n1\n")


def test_google_s_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(object_stores, "_CONNECT_SECONDS", 1.0)
    rule = r"gs://tables/t.csv: the store must answer; .*\(STORAGE_EMULATOR_HOST\)"
    with pytest.raises(TableError, match=rule) as caught:
        read_table("gs://tables/t.csv")
    assert "error_info" not in str(caught.value)


def test_no_account_of_google_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = "PerformWork() - CURL error [6]=Could not resolve hostname"
    said = (
        "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of Could "
        "not create a OAuth2 access token to authenticate the request. The underlying error "
        f"message was: {cause} error_info={{reason=, domain=, metadata={{a={cause}}}}})"
    )

    class Store:
        def get_file_info(self, key: str) -> None:
            raise OSError(said)

    monkeypatch.setattr(object_stores, "_google", lambda _: Store())
    with pytest.raises(TableError) as caught:
        read_table("gs://tables/t.csv")
    assert str(caught.value) == (
        f"gs://tables/t.csv: an account of Google must be found and let in; none was ({cause}); "
        "set GOOGLE_APPLICATION_CREDENTIALS to its file, or run `gcloud auth application-default "
        "login`, and check the network"
    )


def test_without_pyarrow_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"reading s3://tables/t.csv needs pyarrow") as caught:
        read_table("s3://tables/t.csv")
    assert install_command("objects") in str(caught.value)


def test_an_object_that_goes_away_is_named(put: Any, bucket: Any) -> None:
    uri = put("gone.csv", b"a\n1\n")
    (stored,), is_folder = find_objects(uri)
    assert isinstance(stored, StoredObject)
    assert (stored.size, is_folder) == (4, False)
    bucket.delete_object(Bucket="tables", Key="gone.csv")
    with pytest.raises(TableError, match=r"s3://tables/gone\.csv"):
        stored.open()
    with pytest.raises(TableNotFoundError):
        find_objects(uri)


def test_an_object_is_written_whole(put: Any, bucket: Any) -> None:
    put_object("s3://tables/out/x.bin", b"12345")
    assert bucket.get_object(Bucket="tables", Key="out/x.bin")["Body"].read() == b"12345"
    with pytest.raises(TableError, match="there is no bucket 'nobucket'"):
        put_object("s3://nobucket/x.bin", b"1")


def _run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["parquet", "csv"])
def test_every_command_takes_a_uri(put: Any, tmp_path: Path, extension: str) -> None:
    frame = _frame(1200)
    for number, start in enumerate(range(0, 1200, 400)):
        put(f"rows-{extension}/{number}.{extension}", frame[start : start + 400])
    local = tmp_path / f"whole.{extension}"
    frame.write_parquet(local) if extension == "parquet" else frame.write_csv(local)
    uri = f"s3://tables/rows-{extension}"
    options = "--target label --drop id --epochs 3 --members 1 --width 16 --quiet".split()  # noqa: SIM905
    for name, source, more in (
        ("there", uri, []),
        ("here", local, []),
        ("streamed", uri, ["--memory", "1kB"]),
    ):
        model = tmp_path / f"{name}.safetensors"
        done = _run("train", source, *options, *more, "-o", model)
        assert done.exit_code == 0, done.output
    found = {}
    for name in ("there", "here", "streamed"):
        model = tmp_path / f"{name}.safetensors"
        output = tmp_path / f"{name}.parquet"
        done = _run("predict", model, uri, "--keep", "id", "-o", output, "--quiet")
        assert done.exit_code == 0, done.output
        found[name] = pl.read_parquet(output)
        assert found[name]["id"].to_list() == frame["id"].to_list()
        done = _run("evaluate", model, uri, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["rows"] == 1200
    assert_frame_equal(found["there"], found["here"])
    unlike = _run(
        "predict", tmp_path / "here.safetensors", "s3://tables/nope", "-o", tmp_path / "n"
    )
    assert unlike.exit_code != 0
