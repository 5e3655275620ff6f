from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue, TextTable, open_texts
from crossmedia.names import ImageNames

NAMES = ImageNames(np.array([10, 11, 12]), pa.array(["a", "b", "007"]))


def table(folder: Path, columns: dict[str, object], name: str = "items.parquet") -> str:
    path = folder / name
    pq.write_table(pa.table(columns), path)
    return str(path)


def opened(path: str, names: ImageNames | None = None) -> TextCatalogue:
    return open_texts(TextTable(path, "title"), names)


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
def test_texts_are_read_by_id(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        path = table(tmp_path, {"item_id": [7, 3, 5], "title": ["red\ndress", None, "Café"], "price": [1.0, 2.0, 3.0]})
    else:
        data = 'item_id,price,title\n007,1,"red\ndress"\n3,2,\n5,3,Café\n'.encode()
        (tmp_path / f"items.{kind}").write_bytes(gzip.compress(data) if kind == "csv.gz" else data)
        path = str(tmp_path / f"items.{kind}")
    found = opened(path)
    assert found.ids().tolist() == [3, 5, 7]
    assert found.read(7, 100) == b"red\ndress"
    assert found.read(3, 100) == b"", "an empty cell is an empty text, which has a reason of its own"
    assert found.read(4, 100) is None
    assert found.read(5, 3) == "Café".encode()[:4], "one byte more, by which a text is seen to be too long"
    assert found.all_of(np.array([5, 7])) == ["Café".encode(), b"red\ndress"]
    below = "" if kind == "parquet" else " below the header"
    assert found.place(7).endswith(f"items.{kind} (row 1{below})")
    assert found.place(4) == ""
    assert found.lacks(np.array([3, 4])).tolist() == [False, True]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_cell_without_a_number_is_an_empty_text_and_a_word_stays_one(tmp_path: Path, kind: str) -> None:
    """The rule of every column: NA is a country, and null may be a name."""
    cells = ["nan", "NaN", "", "NA", "null", "nan shirt"]
    if kind == "parquet":
        path = table(tmp_path, {"item_id": list(range(6)), "title": cells})
    else:
        path = str(tmp_path / "items.csv")
        Path(path).write_text("item_id,title\n" + "".join(f'{n},"{cell}"\n' for n, cell in enumerate(cells)))
    assert opened(path).all_of(np.arange(6)) == [b"", b"", b"", b"NA", b"null", b"nan shirt"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["red", "blue"], pa.large_string()),
        pa.array(["red", "blue"]).dictionary_encode(),
        pa.array([b"red", b"blue"]),
        pa.array(["red", "blue"], pa.string_view()),
    ],
    ids=str,
)
def test_text_of_any_type_of_text(tmp_path: Path, column: pa.Array) -> None:
    assert opened(table(tmp_path, {"item_id": [1, 2], "title": column})).all_of(np.array([2, 1])) == [b"blue", b"red"]


def test_a_text_that_is_no_utf_8_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b"item_id,title\n1,caf\xe9\n2,tea\n")
    found = opened(str(tmp_path / "items.csv"))
    assert [found.read(1, 99), found.read(2, 99)] == [b"caf\xe9", b"tea"]


def test_names_are_those_of_a_manifest(tmp_path: Path) -> None:
    found = opened(table(tmp_path, {"item_id": ["b", "a", "007"], "title": ["B", "A", "bond"]}), NAMES)
    assert found.ids().tolist() == [10, 11, 12]
    assert found.read(12, 99) == b"bond"
    assert found.names() is NAMES
    assert found.passed_over == ()


def test_rows_that_no_manifest_names_are_passed_over_and_said(tmp_path: Path) -> None:
    found = opened(table(tmp_path, {"item_id": ["b", "new", "newer"], "title": ["B", "N", "N"]}), NAMES)
    assert found.ids().tolist() == [11]
    assert len(found.passed_over) == 1
    assert "2 of 3 rows" in found.passed_over[0]
    assert "'new' in row 2" in found.passed_over[0]


@pytest.mark.parametrize(
    ("columns", "names", "said"),
    [
        ({"item_id": [1], "tilte": ["x"]}, None, r"no column 'title', which --text names.*Did you mean 'tilte'"),
        ({"id": [1], "title": ["x"]}, None, "no column 'item_id', which --key names"),
        ({"item_id": [1], "title": [5]}, None, "of type int64; --text names a column of text"),
        ({"item_id": [1], "title": [["x"]]}, None, "of type list.*--text names a column of text"),
        ({"item_id": [1, 2, 1], "title": ["x", "y", "z"]}, None, "item_id 1 .*twice, in row 1 and in row 3"),
        ({"item_id": [1, None], "title": ["x", "y"]}, None, "empty in row 2; every text needs an item"),
        ({"item_id": ["a"], "title": ["x"]}, None, "'a' in row 1.*imgserver manifest"),
        ({"item_id": [-3], "title": ["x"]}, None, "-3 in row 1"),
        ({"item_id": ["c"], "title": ["x"]}, NAMES, "No row is left"),
        ({"item_id": pa.array([], pa.int64()), "title": pa.array([], pa.string())}, None, "has no rows"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, columns: dict[str, object], names: ImageNames | None, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        opened(table(tmp_path, columns), names)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("items.xlsx", b"PK\x03\x04", "Parquet file, or CSV"),
        ("items.parquet", b"PAR1 and no more", "cannot be read"),
        ("items.csv", b"", "cannot be read"),
        ("items.csv.gz", b"no gzip", "cannot be read"),
        ("items.csv", b"item_id,title\n1,a\n2,a,b\n", "3 cells in row 2 below the header, and 2 columns in the header"),
        ("items.csv", b"item_id,title\n1\n", "1 cells in row 1 below the header, and 2 columns in the header"),
        ("items.csv", b'item_id,title\n1,"a\n2,b\n3,c\n', "a quote in or behind row 1 below the header"),
        ("items.csv", b'item_id,title\n1,"a\n2,b\n3,"c\n', "a quote in or behind row 1 below the header"),
        ("items.csv", b"item_id,title,title\n1,a,b\n", "2 columns 'title', which --text names; rename"),
        ("items.csv", b"item_id;title\n1;a\n", r"separate their columns by ';', .*sep=';'"),
    ],
)
def test_a_file_that_is_no_table_is_said(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=said):
        opened(str(tmp_path / name))
    with pytest.raises(BadInput, match="does not exist"):
        opened(str(tmp_path / "other.csv"))


def test_quotes_and_line_breaks_of_csv_are_those_of_its_cells(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b'\xef\xbb\xbfitem_id,title\r\n1,7" tablet\r\n\r\n2,"a ""b"",\r\nc"\r\n')
    found = opened(str(tmp_path / "items.csv"))
    assert [found.read(item, 99) for item in (1, 2)] == [b'7" tablet', b'a "b",\r\nc']


def test_a_changed_text_is_noticed(tmp_path: Path) -> None:
    path = table(tmp_path, {"item_id": [1, 2], "title": ["red", "blue"]})
    before = opened(path)
    assert not before.changed()
    table(tmp_path, {"item_id": [1, 2], "title": ["red", "bleu"]})
    os.utime(path, ns=(1, 1))
    assert before.changed()
    ids = np.array([1, 2])
    one, other = before.fingerprints(ids), opened(path).fingerprints(ids)
    assert (one.stamp == other.stamp).tolist() == [True, False]
    assert one.size.tolist() == other.size.tolist() == [3, 4]
