"""Are titles that an encoder puts side by side of one kind of thing, and how many texts does it embed in a second?

    python -m benchmarks.titles articles.csv.gz --text name --key article --label product_type
    python -m benchmarks.titles articles.csv.gz --text name --key article --label product_type --encoder hf:FOLDER

The table is embedded into a new store by ``precompute_texts``, as a user does it; the vectors that are compared are
those that a server serves. For 2,000 items drawn by chance, the share of the 10 nearest others (by cosine) that have
the item's label is averaged: precision@10. Others with the same text are left out: they would be found by comparing
letters. ``random`` is the share among 10 items drawn by chance. The encoder is told no label.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import crossmedia
from benchmarks.parts import finish
from crossmedia.imgserver.storage.catalogue.texts import TextTable, open_texts

QUERIES, K, BLOCK = 2000, 10, 500


def precision(
    vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], texts: npt.NDArray[np.int64], chosen: list[int]
) -> float:
    """Share of the ``K`` nearest of other texts that have the label, over the items ``chosen``."""
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = []
    for start in range(0, len(chosen), BLOCK):
        rows = np.array(chosen[start : start + BLOCK])
        cosines = vectors[rows] @ vectors.T
        cosines[texts[rows][:, None] == texts] = -2
        near = np.argpartition(-cosines, K, axis=1)[:, :K]
        found.append((labels[near] == labels[rows][:, None]).mean(axis=1))
    return float(np.concatenate(found).mean())


def main() -> None:
    """Embed a table, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--text", default="title")
    parser.add_argument("--key", default="item_id")
    parser.add_argument("--label", required=True)
    parser.add_argument("--encoder", default="tfidf")
    parser.add_argument("--dim", type=int)
    given = parser.parse_args()
    labels_of = open_texts(TextTable(given.table, given.label, given.key))
    texts_of = open_texts(TextTable(given.table, given.text, given.key))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        arguments = (store, given.table, given.text, given.key)
        result = crossmedia.precompute_texts(*arguments, encoder=given.encoder, dim=given.dim)
        # The first run fits and loads: of another, over the same texts, the texts alone count.
        second = Path(folder) / "second"
        encoder = given.encoder
        if encoder == "tfidf":
            encoder = f"tfidf:{next((store / 'encoders').iterdir())}"
        started, cpu = time.perf_counter(), time.process_time()
        again = crossmedia.precompute_texts(second, *arguments[1:], encoder=encoder, dim=given.dim)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        with crossmedia.open_store(store) as client:
            found = client.get(texts_of.ids())
    ids = texts_of.ids()[found.ok]
    vectors = found.values[found.ok].astype(np.float32)
    labels = np.unique(labels_of.all_of(ids), return_inverse=True)[1]
    texts = np.unique(texts_of.all_of(ids), return_inverse=True)[1]
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(ids), min(QUERIES, len(ids)), replace=False)).tolist()
    at_random = float((labels[rng.integers(0, len(ids), (len(chosen), K))] == labels[chosen][:, None]).mean())
    ours = precision(vectors, labels, texts, chosen)
    print(f"{result.version}: {result.embedded} texts, {result.rejected} rejected, {len(set(texts))} different")
    print(f"the first run, with what it fits and loads: {result.seconds:.1f} s")
    rate, rate_of_core = again.embedded / seconds, again.embedded / cpu
    print(f"another run over all: {seconds:.1f} s, {rate:,.0f} texts/s, vectors and commits included;")
    print(f"it took {cpu:.1f} s of processor time, {rate_of_core:,.0f} texts/s of one core")
    print(f"precision@{K} by {given.label}: {ours:.3f}, at random {at_random:.3f}")
    finish("titles", {"precision_over_random": ours / at_random}, precision=ours, texts_per_core_s=rate_of_core)


if __name__ == "__main__":
    main()
