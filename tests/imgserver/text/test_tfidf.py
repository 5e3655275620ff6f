from __future__ import annotations

import csv
from collections import Counter
from math import log, sqrt
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.ngrams import LONGEST, SINGLE_FROM, ngrams
from crossmedia.imgserver.text.reading import BadText, TextReading, TextTooLong
from crossmedia.imgserver.text.tfidf import Tfidf

with open(ROOT / "examples" / "grocery" / "photos.csv", encoding="utf-8", newline="") as _file:
    TITLES = [row["fine"] for row in csv.DictReader(_file)]


def plain_ngrams(text: str) -> Counter[str]:
    """Slow and plain: what ``ngrams`` hashes."""
    found: Counter[str] = Counter()
    whole = normalize("NFKC", text).casefold()
    found.update(character for character in whole if ord(character) >= SINGLE_FROM and not character.isspace())
    for word in whole.split():
        padded = f" {word} "
        for size in range(2, LONGEST + 1):
            found.update(padded[start : start + size] for start in range(len(padded) - size + 1))
    return found


@given(st.lists(st.text(st.sampled_from("ab é裙女ß\u3000"), max_size=12), min_size=1, max_size=5))
def test_ngrams_are_those_of_a_slow_and_plain_version(texts: list[str]) -> None:
    rows, hashes = ngrams(texts)
    assert (np.diff(rows) >= 0).all()
    known: dict[tuple[int, ...], str] = {}
    for row, text in enumerate(texts):
        expected, found = plain_ngrams(text), Counter(hashes[rows == row].tolist())
        assert sorted(found.values()) == sorted(expected.values()), "as many, each as often"
        assert found == Counter(ngrams([text])[1].tolist()), "whatever stands beside it"
        # Texts of the same n-grams have the same hashes, others have others.
        assert known.setdefault(tuple(sorted(found.elements())), repr(sorted(expected.items()))) == repr(
            sorted(expected.items())
        )


def test_one_ngram_has_one_hash_in_every_text() -> None:
    shared = set(ngrams(["dress"])[1].tolist())
    assert shared <= set(ngrams(["a red dress, long"])[1].tolist()) | set(ngrams(["dress"])[1].tolist())
    assert set(ngrams(["红"])[1].tolist()) & set(ngrams(["夏季红色"])[1].tolist())
    assert not set(ngrams(["ab"])[1].tolist()) & set(ngrams(["cd"])[1].tolist())


def test_numbers_are_those_of_tfidf_written_out() -> None:
    """Cosines of two texts in all directions are those of TF-IDF vectors that are computed one by one."""
    texts = ["red dress", "red shoes", "blue dress", "milk"]
    encoder = Tfidf.fit(texts)
    counts = [plain_ngrams(text) for text in texts]
    often = Counter(ngram for found in counts for ngram in found)
    weighted = [
        {n: (1 + log(c)) * (log((1 + len(texts)) / (1 + often[n])) + 1) for n, c in found.items()} for found in counts
    ]

    def cosine(a: dict[str, float], b: dict[str, float]) -> float:
        length = sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
        return sum(x * b.get(n, 0.0) for n, x in a.items()) / length

    expected = [[cosine(a, b) for b in weighted] for a in weighted]
    assert encoder.dim == len(texts), "as many directions as there are texts keep everything"
    found = encoder.encode(texts)
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-3)  # directions are stored as float16


def test_texts_that_share_words_are_near() -> None:
    """Also where no space stands between words, and words stand in another order."""
    texts = [
        "红色连衣裙夏季新款女装修身显瘦",
        "夏季红色连衣裙",
        "男士运动鞋透气跑步鞋",
        "蓝牙耳机无线降噪",
        "儿童书包小学生",
    ]
    found = Tfidf.fit(texts).encode(texts)
    cosines = found[0] @ found.T
    assert cosines[1] > 0.3
    assert (cosines[2:] < 0.15).all()


def test_the_same_texts_give_the_same_encoder_and_a_text_does_not_depend_on_its_batch() -> None:
    texts = sorted(set(TITLES))
    one, other = Tfidf.fit(texts), Tfidf.fit(texts)
    assert one.version == other.version
    assert one.version.startswith("text:tfidf@")
    alone = np.concatenate([one.encode([text]) for text in texts])
    np.testing.assert_array_equal(alone, one.encode(texts))


def test_a_text_of_which_nothing_is_known_has_no_feature() -> None:
    found = Tfidf.fit(TITLES).encode(["дом", "Red-Delicious"])
    assert np.isnan(found[0]).all()
    assert np.linalg.norm(found[1]) == pytest.approx(1)


def test_a_file_holds_it_all() -> None:
    encoder = Tfidf.fit(TITLES)
    again = Tfidf.from_bytes(encoder.to_bytes())
    assert (again.version, again.example) == (encoder.version, encoder.example)
    np.testing.assert_array_equal(again.encode(TITLES), encoder.encode(TITLES))
    assert np.isfinite(again.encode([again.example])).all(), "the server checks itself with it"


@pytest.mark.parametrize("damage", ["cut", "swapped", "nan", "narrow", "missing", "empty", "pickle"])
def test_a_damaged_file_is_refused(damage: str) -> None:
    data = Tfidf.fit(TITLES[:20]).to_bytes()
    arrays = load(data)
    if damage == "cut":
        data = data[:-3]
    elif damage == "pickle":
        data = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94."
    else:
        if damage == "swapped":
            arrays["hashes"] = arrays["hashes"][::-1].copy()
        elif damage == "nan":
            arrays["directions"][3, 1] = np.nan
        elif damage == "narrow":
            arrays["weights"] = arrays["weights"][:-1].copy()
        elif damage == "missing":
            del arrays["weights"]
        else:
            arrays = {name: array[:0].copy() for name, array in arrays.items()}
        data = save(arrays, {"example": "x"})
    with pytest.raises(BadInput, match="TF-IDF encoder"):
        Tfidf.from_bytes(data)


def test_nothing_to_fit_on_is_said() -> None:
    with pytest.raises(BadInput, match="nothing to fit"):
        Tfidf.fit([])


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"", BadText, "empty"),
        (b" \n\t ", BadText, "empty"),
        ("\u3000".encode(), BadText, "empty"),
        (b"\xff\xd8\xff\xe0JFIF", BadText, "no UTF-8"),
        (b"caf\xe9", BadText, "no UTF-8"),
        (b"x" * ((64 << 10) + 1), TextTooLong, "more than 65536 bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_a_reason(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        TextReading().read(data)


def test_a_text_is_read_without_the_blanks_around_it() -> None:
    assert str(TextReading().read(b"  rotes Kleid\0\n")) == "rotes Kleid"
    assert str(TextReading().read(b"x" * (64 << 10))) == "x" * (64 << 10)


def test_the_file_is_small(tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(Tfidf.fit(TITLES).to_bytes())
    assert file.stat().st_size < 1 << 20
