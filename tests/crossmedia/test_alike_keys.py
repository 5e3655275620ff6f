"""Keys of a catalogue that differ in their form alone are two images, and it is said that they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import run_command

from crossmedia import write_manifest
from crossmedia.forms import alike


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            ["7", "007", "x"],
            "1 of the keys is there in a form with zeros before, or behind the point, too, such as '7'",
        ),
        (["7.0", "7"], "in a form with zeros before, or behind the point, too, such as '7.0' and '7'."),
        (["A", "A ", "B"], "in a form with other blanks at the ends, too, such as 'A' and 'A '. Each is an image of "),
        (["Cat", "cat", "Dog", "dog"], "2 of the keys are there in another letter case, too, such as 'Cat' and 'cat'."),
        (["Caf\u00e9", "Cafe\u0301"], r"Unicode form, NFC or NFD, too, such as 'Caf\xe9' and 'Cafe\u0301'."),
        (["a%20b", "a b"], "in a form without the escapes of an address, too, such as 'a%20b' and 'a b'."),
    ],
)
def test_keys_that_differ_in_form_alone_are_said(keys: list[str], said: str) -> None:
    (sentence,) = alike(pa.array(keys))
    assert said in sentence


def test_keys_that_differ_in_more_are_not(photos: Path) -> None:
    assert alike(pa.array(["10", "100", "1000", "0", "1e3", "a", "b", "A-1", "A-10", ""])) == []
    assert alike(pa.array([], pa.string())) == []
    assert alike(pa.array(path.stem for path in photos.glob("*.jpg"))) == []


def test_a_manifest_of_such_names_says_it(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo = next(photos.glob("*.jpg"))
    for name in ("A.jpg", "A .jpg", "7.jpg", "007.jpg"):
        shutil.copy(photo, tmp_path / "photos" / name)
    report = write_manifest(tmp_path / "photos", tmp_path / "m.parquet")
    assert (report.images, len(report.alike)) == (4, 2)
    done = run_command("imgserver", "manifest", str(tmp_path / "photos"), f"--out={tmp_path / 'm.parquet'}", "--json")
    assert "such as 'A' and 'A '" in done.stderr or "such as 'A ' and 'A'" in done.stderr
    assert len(json.loads(done.stdout)["alike"]) == 2
