"""H&M purchases and photos of the articles to the tables and schemas that ``features build`` reads.

    python examples/fashion/prepare.py --hm hm_fashion --out fashion

The folder holds ``purchases.csv.gz`` (day, user, article, price, channel) and ``articles.csv.gz`` (article, name,
attributes, description): a part of the data of Kaggle's "H&M Personalized Fashion Recommendations" of 2022, whose rules
allow research and no redistribution. Photos are files ``<article>.jpg``, or a tar of them. An article's price is that
of its first sale: a purchase says no more of it than of an article that was not bought. Of the purchases of an article
by one user the first one counts: a negative is nothing that its user ever buys, so that a later one would be told by
the history alone. Beside ``samples.toml`` it writes ``bare.toml``, of a shop that knows no attributes and no prices.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
from pathlib import Path

TEXTS = ("name", "description")  # embedded together, as one text


def prepare(hm: Path, out: Path) -> tuple[int, int]:
    """Write ``purchases.csv``, ``articles.csv`` and the schemas to ``out``; return purchases and articles."""
    out.mkdir(parents=True, exist_ok=True)
    first_price: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    with (
        gzip.open(hm / "purchases.csv.gz", "rt", encoding="utf-8", newline="") as source,
        open(out / "purchases.csv", "w", encoding="utf-8", newline="") as target,
    ):
        writer = csv.writer(target)
        writer.writerow(["day", "user", "article"])
        for row in csv.DictReader(source):  # in the order of time
            first_price.setdefault(row["article"], row["price"])
            if (key := (row["user"], row["article"])) not in seen:
                seen.add(key)
                writer.writerow([row["day"], *key])
    with (
        gzip.open(hm / "articles.csv.gz", "rt", encoding="utf-8", newline="") as source,
        open(out / "articles.csv", "w", encoding="utf-8", newline="") as target,
    ):
        articles = list(csv.DictReader(source))
        attributes = [name for name in articles[0] if name not in ("article", *TEXTS)]
        writer = csv.writer(target)
        writer.writerow(["article", "product", "image_id", "price", *attributes, "text"])
        for row in articles:
            article = row["article"]  # ten digits: product and colour; photos go by it as a number
            own = [article, article[:7], int(article), first_price.get(article, "")]
            words = ". ".join(row[name] for name in TEXTS if row[name])
            writer.writerow([*own, *(row[name] for name in attributes), words])
    schema = (Path(__file__).parent / "samples.toml").read_text()
    (out / "samples.toml").write_text(schema)
    (out / "bare.toml").write_text(re.sub(r"\n(ids = \[.*?\n\]|numbers = .*?)(?=\n)", "", schema, flags=re.DOTALL))
    return len(seen), len(articles)


def main() -> None:
    """Prepare the tables."""
    parser = argparse.ArgumentParser(description="Make the tables of the fashion example.")
    parser.add_argument("--hm", type=Path, required=True, help="folder with purchases.csv.gz and articles.csv.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the tables to")
    arguments = parser.parse_args()
    purchases, articles = prepare(arguments.hm, arguments.out)
    print(f"{purchases:,} purchases of {articles:,} articles")


if __name__ == "__main__":
    main()
