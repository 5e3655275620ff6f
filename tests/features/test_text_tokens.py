"""Words of texts: where there are spaces, where there are none, and by a tokenizer's file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop_tables import write_tokenizer

from crossmedia.errors import BadInput
from crossmedia.features.encoding import Encoding
from crossmedia.features.spec import Columns
from crossmedia.features.tokens import tokenizer


def tokens(how: str, *texts: str | None) -> list[list[str]]:
    found: list[list[str]] = tokenizer(how)(pa.array(texts, pa.string())).to_pylist()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A nice-thing 7, Ünder!", ["a", "nice", "thing", "7", "ünder"]),
        ("夏季红色", ["夏季", "季红", "红色"]),
        ("iPhone手机壳Pro 红", ["iphone", "手机", "机壳", "pro", "红"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("ผ้าแดง", ["ผ้า", "้าแ", "าแด", "แดง"]),
        ("हिन्दी कपड़े", ["हिन्दी", "कपड़े"]),
        ("한국어 옷", ["한국어", "옷"]),
        ("ＡＢＣ１", ["abc1"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("𠀀𠀁𠀂", ["𠀀𠀁", "𠀁𠀂"]),
        ("", []),
        (None, []),
        ("… — !", []),
    ],
)
def test_words_are_found_where_there_are_no_spaces_too(text: str | None, expected: list[str]) -> None:
    assert tokens("words", text) == [expected]


def test_a_title_meets_the_words_that_people_search_for() -> None:
    title, search = tokens("words", "红色连衣裙夏季新款女装修身显瘦", "夏季红色连衣裙")
    assert {"夏季", "红色", "连衣", "衣裙"} <= {*title} & {*search}


def test_characters_are_triples_where_there_are_spaces() -> None:
    assert tokens("characters", "Kleiderschrank weiß", "an", "夏季红色") == [
        ["kle", "lei", "eid", "ide", "der", "ers", "rsc", "sch", "chr", "hra", "ran", "ank", "wei", "eiß"],
        ["an"],
        ["夏季", "季红", "红色"],
    ]


def plain(text: str) -> list[str]:
    """The same for Chinese and ASCII, one letter after the other."""
    found: list[str] = []
    for word in "".join(c if c.isalnum() else " " for c in text.lower()).split():
        runs: list[str] = []
        for c in word:
            if runs and (c > "\u3000") == (runs[-1][-1] > "\u3000"):
                runs[-1] += c
            else:
                runs.append(c)
        for run in runs:
            pairs = len(run) > 2 and run[0] > "\u3000"
            found += [run[n : n + 2] for n in range(len(run) - 1)] if pairs else [run]
    return found


@given(st.lists(st.text("ab7 -夏季红色裙", max_size=12), max_size=8))
def test_words_equal_those_of_a_plain_loop(texts: list[str]) -> None:
    assert tokens("words", *texts) == [plain(text) for text in texts]


def test_a_file_of_hugging_face_is_kept_with_the_samples(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "t.json")
    encoding = Encoding.of(Columns(text=("title", "brand"), tokens=str(tmp_path / "t.json")))
    (tmp_path / "t.json").unlink()
    again = Encoding.of_json(encoding.json())
    assert again == encoding
    assert again.tokens["title"] == again.tokens["brand"] == next(iter(again.files))
    found = again.tokenizer("title")(pa.array(["red_dress_red_new", None, ""]))
    assert found.to_pylist() == [["red", "dress", "red", "[UNK]"], [], []]  # a title is not cut short


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_a_file_that_is_no_tokenizer_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(BadInput, match=r"t.json (cannot be read|is no tokenizer)"):
        tokenizer(str(tmp_path / "t.json"))
