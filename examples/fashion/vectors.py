"""Vectors that no photo was looked at for: the true attributes of the articles, and noise.

    python examples/fashion/vectors.py --articles fashion/articles.csv --out attributes.parquet
    crossmedia imgserver import attributes.parquet --name attributes --store attributes

The attributes bound what photos can bring: type, pattern and colour, as if they were read from the photo without a
mistake. Each is a block of one-hot numbers, so that the cosine of two articles is the share of these attributes that
they have in common. Noise, of ``--random``, is the other end: what a model makes of vectors that say nothing. Both are
of mean square 1, as vectors of a PCA are: at another scale a model takes them in faster or slower.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

SEEN_IN_A_PHOTO = ("product_type", "graphical_appearance", "colour_group")


def one_hot(table: pa.Table, columns: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """A block of numbers a column, one of which is not 0 in each row; shape (articles, values of all columns)."""
    blocks = []
    for name in columns:
        codes = np.asarray(pc.dictionary_encode(table[name]).combine_chunks().indices)
        blocks.append(np.eye(codes.max() + 1, dtype=np.float32)[codes])
    joined = np.concatenate(blocks, axis=1)
    scaled: npt.NDArray[np.float32] = joined / np.sqrt(np.mean(joined**2))
    return scaled


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description="Vectors of attributes, or noise, for 'imgserver import'.")
    parser.add_argument("--articles", type=Path, required=True, help="articles.csv that prepare.py wrote")
    parser.add_argument("--columns", default=",".join(SEEN_IN_A_PHOTO), help="attributes, separated by commas")
    parser.add_argument("--random", type=int, default=0, metavar="DIM", help="noise of so many numbers instead")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args()
    columns = tuple(arguments.columns.split(","))
    text = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False)
    table = csv.read_csv(arguments.articles, convert_options=text)
    if unknown := [name for name in columns if name not in table.column_names]:
        raise SystemExit(f"There is no column {unknown[0]!r}; there are: {', '.join(table.column_names)}.")
    if arguments.random:
        shape = (len(table), arguments.random)
        vectors = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    else:
        vectors = one_hot(table, columns)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"image_id": table["image_id"], "vector": lists}), arguments.out)
    print(f"{vectors.shape[0]:,} vectors of {vectors.shape[1]} numbers")


if __name__ == "__main__":
    main()
