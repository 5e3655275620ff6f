"""How well do vectors find what a user buys next among the articles that are new? Of some heads, beside each other.

    python examples/fashion/recall.py --samples samples photos=photos "true attributes=attributes" noise=noise

The question is the mean of the vectors of a user's last five purchases, the answer the next one, among all articles
that training does not have; or, of products, among those whose product training does not have either. It is the
measure that ``trainer align`` stops by, here of the test part. Each store has a line in the file of results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_store
from crossmedia.trainer.align.recall import ColdQueries, cold_queries, groups_by_key, recall
from crossmedia.trainer.runs import results
from crossmedia.version import place_and_version

PRODUCT_DIGITS = 7
AT = (10, 100)


def of_store(store: str, version: str, asked: dict[str, ColdQueries]) -> dict[str, Any]:
    """The version that was asked and its recall, by what is new: articles, products."""
    with open_store(store) as client:
        client.version = version = version or client.info().version

        def vectors(keys: Int64Array) -> Any:
            return client.get(keys).values.astype(np.float32)

        return {"version": version, "recall": {name: recall(queries, vectors, AT) for name, queries in asked.items()}}


def main() -> None:
    """Measure each store, print, and append the lines."""
    parser = argparse.ArgumentParser(description="Recall of the next new article, by the vectors of each store.")
    parser.add_argument("--samples", type=Path, required=True, help="what 'features build' made")
    parser.add_argument("--results", type=Path, default=Path("results/fashion-recall.jsonl"))
    parser.add_argument("--space", default="photo", help="of the samples, whose keys the stores have")
    parser.add_argument("stores", nargs="+", metavar="NAME=STORE", help="STORE@VERSION for one that is not active")
    arguments = parser.parse_args()
    samples = Samples(arguments.samples)
    asked = {
        "articles": cold_queries(samples, "test", arguments.space),
        "products": cold_queries(samples, "test", arguments.space, groups=groups_by_key(samples, PRODUCT_DIGITS)),
    }
    for what, queries in asked.items():
        print(f"new {what}: {len(queries):,} questions, {len(queries.pool):,} candidates")
    print(f"| vectors | {' | '.join(f'new {what}: recall@10 / @100' for what in asked)} |\n|---|{'---|' * len(asked)}")
    for name, place in (text.split("=", 1) for text in arguments.stores):
        store, version = place_and_version(place)
        found = of_store(store, version, asked)
        cells = [" / ".join(f"{found['recall'][what][number]:.4f}" for number in AT) for what in asked]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        line = {"data": "hm_fashion", "samples": samples.hash, "name": name, **found, **results.made()}
        results.append(arguments.results, json.loads(json.dumps(line)))


if __name__ == "__main__":
    main()
