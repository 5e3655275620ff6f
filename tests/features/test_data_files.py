"""Tables in folders as Hive and Spark write them, here, in a bucket, and behind other addresses of fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pytest
from small_tables import ROWS, items, log, put, rows_in

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.features.writing.report import BuildReport

SCHEMA = """
[log]
path = "LOG"
user = "user"
item = "item"
time = "time"
ids = ["place"]
[log.labels]
click = "click"
[items]
path = "ITEMS"
item = "item"
ids = ["shop"]
image = "image"
[behaviours]
from_log = { seen = "click == 1" }
"""


def make(folder: Path, of_log: str, of_items: str = "items.parquet") -> tuple[Samples, BuildReport]:
    put(folder / "items.parquet", items())
    (folder / "s.toml").write_text(SCHEMA.replace("LOG", of_log).replace("ITEMS", of_items))
    report = build_samples(load_schema(folder / "s.toml"), folder / "out", overwrite=True)
    return Samples(folder / "out"), report


def places() -> list[str | None]:
    return [None if n % 10 == 0 else f"a b/{n % 3}" for n in range(ROWS)]


def rows(samples: Samples) -> list[str]:
    names = [None, *samples.vocabulary.values["place"].to_pylist()]
    return sorted(
        str(
            row
            | {"place": names[row["place"]], "user_id": 0, "item_id": 0, "shop": 0, "hist_item_id": 0, "hist_shop": 0}
        )
        for row in rows_in(samples)
    )


@pytest.fixture
def expected(tmp_path: Path) -> list[str]:
    (tmp_path / "plain").mkdir()
    put(tmp_path / "plain" / "log.parquet", log(place=places()))
    return rows(make(tmp_path / "plain", "log.parquet")[0])


def as_spark(folder: Path, kind: str) -> None:
    """A folder as Spark writes it, by place, with its marks and checksums."""
    table = pa.table(log(place=places()))
    partitioning = ds.partitioning(pa.schema([("place", pa.string())]), flavor="hive")
    ds.write_dataset(
        table, folder, format=kind, partitioning=partitioning, basename_template="part-{i}-c000.snappy." + kind
    )
    assert (folder / "place=__HIVE_DEFAULT_PARTITION__").is_dir()
    assert (folder / "place=a%20b%2F1").is_dir()
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / "._SUCCESS.crc").write_bytes(b"crc")
    (folder / "place=a%20b%2F1" / ".part-0-c000.crc").write_bytes(b"crc")
    (folder / "_temporary" / "0").mkdir(parents=True)
    (folder / "_temporary" / "0" / f"part-9.{kind}").write_bytes(b"half")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_folder_of_spark_is_a_table_whose_folders_are_a_column(
    tmp_path: Path, kind: str, expected: list[str]
) -> None:
    as_spark(tmp_path / "log", kind)
    samples, report = make(tmp_path, "log")
    assert rows(samples) == expected
    assert report.notes == {}


def test_a_label_and_a_time_may_stand_in_the_folders(tmp_path: Path) -> None:
    table = pa.table(log(place=places())).drop_columns(["time"])
    for day in range(6):
        for click in (0, 1):
            part = table.filter(pa.compute.equal(table["click"], click)).slice(3 * day, 3)
            put(
                tmp_path / "log" / f"day=2026-01-0{day + 1}" / f"click={click}" / "p.parquet",
                part.drop_columns(["click"]).to_pydict(),
            )
    put(tmp_path / "items.parquet", items())
    text = SCHEMA.replace("LOG", "log").replace("ITEMS", "items.parquet").replace('time = "time"', 'time = "day"')
    (tmp_path / "s.toml").write_text(text + '[split]\nmethod = "time"\ntest = 0.34\nvalidation = 0.34\n')
    report = build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out")
    assert (sum(report.rows.values()), report.positive_rate) == (36, {"click": 0.5})


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    for path in system.find("/shop"):
        system.rm(path)


def upload(folder: Path, address: str) -> None:
    system, root = fsspec.url_to_fs(address)
    for file in folder.rglob("*"):
        if file.is_file():
            with system.open(f"{root}/{file.relative_to(folder)}", "wb") as out:
                out.write(file.read_bytes())


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_tables_in_memory_are_those_on_disk(tmp_path: Path, memory: Any, kind: str, expected: list[str]) -> None:
    as_spark(tmp_path / "log", kind)
    upload(tmp_path / "log", "memory://shop/log")
    put(tmp_path / "one" / "items.csv", items())
    upload(tmp_path / "one", "memory://shop/tables")
    samples, report = make(tmp_path, "memory://shop/log", "memory://shop/tables/items.csv")
    assert rows(samples) == expected
    assert report.notes == {}
    assert samples.spaces["image"].id_space == "items.csv"


def test_gzipped_csv_behind_an_address_is_read(tmp_path: Path, memory: Any, expected: list[str]) -> None:
    with pa.CompressedOutputStream(str(tmp_path / "l.csv.gz"), "gzip") as out:
        pyarrow.csv.write_csv(pa.table(log(place=places())), out)
    with memory.open("/shop/l.csv.gz", "wb") as out:
        out.write((tmp_path / "l.csv.gz").read_bytes())
    assert rows(make(tmp_path, "memory://shop/l.csv.gz")[0]) == expected


def test_what_is_wrong_behind_an_address_is_said(tmp_path: Path, memory: Any) -> None:
    with pytest.raises(BadInput, match=r"There is no file at memory://shop/none. Check the address, and that its cred"):
        make(tmp_path, "memory://shop/none")
    with pytest.raises(BadInput, match=r"The table nosuch://shop/log cannot be opened: .*crossmedia\[remote\]"):
        make(tmp_path, "nosuch://shop/log")
    for name, content, message in (
        ("l.csv", b"user;item;time;click;place\n1;2;3;1;4\n", r"memory://.*l.csv separates its columns by semicolons"),
        ("l.csv", b"", r"memory://shop/l.csv is empty"),
        ("l.parquet", b"PAR1 and more", r"memory://.*l.parquet cannot be read"),
        ("l.csv", b"user,item,time,click,place\n1,2,3,1\n", r"has 4 cells in row 1 below the header, and 5 columns"),
        ("l.csv", b"user,item,time,click,place\n1,2,3,1,\xff\n", r"l.csv is no text in UTF-8"),
    ):
        with memory.open(f"/shop/{name}", "wb") as out:
            out.write(content)
        with pytest.raises(BadInput, match=message):
            make(tmp_path, f"memory://shop/{name}")
    with memory.open("/shop/folder/readme.txt", "wb") as out:
        out.write(b"hello")
    with pytest.raises(BadInput, match=r"memory://shop/folder holds no .parquet, .*begins with readme.txt"):
        make(tmp_path, "memory://shop/folder")


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of a folder in a bucket of a local S3 server, to which the environment points every client."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="shop")
        yield "s3://shop/logs"
    server.stop()


@pytest.mark.slow
def test_a_log_in_a_bucket_is_read(tmp_path: Path, bucket: str, expected: list[str]) -> None:
    as_spark(tmp_path / "log", "parquet")
    upload(tmp_path / "log", f"{bucket}/log")
    put(tmp_path / "one" / "items.parquet", items())
    upload(tmp_path / "one", bucket)
    samples, report = make(tmp_path, f"{bucket}/log", f"{bucket}/items.parquet")
    assert rows(samples) == expected
    assert report.notes == {}
    with pytest.raises(BadInput, match=r"There is no file at s3://shop/none"):
        make(tmp_path, "s3://shop/none")
    with pytest.raises(BadInput, match=r"s3://other/none"):
        make(tmp_path, "s3://other/none")


def test_a_folder_counts_before_a_column_of_the_file_as_in_spark(tmp_path: Path) -> None:
    put(tmp_path / "log" / "place=x" / "p.parquet", log(place=["y"] * ROWS))
    samples, _ = make(tmp_path, "log")
    assert samples.vocabulary.values["place"].to_pylist() == ["x"]
