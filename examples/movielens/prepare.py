"""MovieLens ratings and a folder of posters to the tables and schemas that ``features build`` reads.

    python examples/movielens/prepare.py --ratings ratings.csv.gz --movies movies.csv --posters posters --out ml

``ratings.csv(.gz)`` has the columns userId, movieId, rating, timestamp; ``movies.csv`` movieId, title, genres: both as
in the releases of GroupLens. A poster is a file ``<movieId>.jpg``; a movie without one gets an empty image id. Beside
``samples.toml`` it writes ``held_out.toml``, where 15 % of the movies are in no training row and in no history.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path


def prepare(ratings: Path, movies: Path, posters: Path, out: Path) -> tuple[int, int]:
    """Write ``items.csv``, the ratings and the schemas to ``out``; return movies, and movies with a poster."""
    out.mkdir(parents=True, exist_ok=True)
    there = {int(path.stem) for path in posters.glob("*.jpg")}
    with_poster = total = 0
    with open(movies, newline="", encoding="utf-8") as source, open(out / "items.csv", "w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["movieId", "image_id", "genres", "title"])
        for movie in csv.DictReader(source):
            has = int(movie["movieId"]) in there
            writer.writerow([movie["movieId"], movie["movieId"] if has else "", movie["genres"], movie["title"]])
            total, with_poster = total + 1, with_poster + has
    shutil.copy(ratings, out / ("ratings.csv.gz" if ratings.suffix == ".gz" else "ratings.csv"))
    schema = (Path(__file__).parent / "samples.toml").read_text()
    if ratings.suffix != ".gz":
        schema = schema.replace("ratings.csv.gz", "ratings.csv")
    (out / "samples.toml").write_text(schema)
    (out / "held_out.toml").write_text(schema.replace("[split]\n", "[split]\nhold_out_items = 0.15\n"))
    return total, with_poster


def main() -> None:
    """Prepare the tables."""
    parser = argparse.ArgumentParser(description="Make the tables of the MovieLens example.")
    for name in ("ratings", "movies", "posters", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    total, with_poster = prepare(arguments.ratings, arguments.movies, arguments.posters, arguments.out)
    print(f"{total:,} movies, {with_poster:,} of them with a poster")


if __name__ == "__main__":
    main()
