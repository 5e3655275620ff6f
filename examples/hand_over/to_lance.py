"""Vectors into a Lance data set, named by their version.

python examples/hand_over/to_lance.py vectors.parquet lance
"""

from __future__ import annotations

import sys
from pathlib import Path

import lance
from exported import Exported

file, folder = sys.argv[1:]
exported = Exported.read(file)
uri = f"{folder}/{exported.name}.lance"
there = lance.dataset(uri) if Path(uri).exists() else None
exported.check_follows(there.config().get("point", "") if there else "")
if exported.since and there:
    taken = there.merge_insert("image_id").when_matched_update_all().when_not_matched_insert_all()
    taken.execute(exported.vectors)
    if exported.removed:
        there.delete(f"image_id in ({', '.join(map(str, exported.removed))})")
else:
    there = lance.write_dataset(exported.vectors, uri, mode="overwrite")
there.update_config({"point": exported.point, "version": exported.version})

there = lance.dataset(uri)
image = there.head(1).to_pylist()[0]
near = there.to_table(columns=["image_id"], nearest={"column": "vector", "q": image["vector"], "k": 3})
print(f"{exported.name}: {there.count_rows()} vectors; nearest to {image['image_id']}: {near['image_id'].to_pylist()}")
