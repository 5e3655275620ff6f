"""One request: which of these photos will this customer click?

python examples/own_catalogue/score.py shop/din.pt2 localhost:7070 shop/photos.parquet
"""

from __future__ import annotations

import sys
import time

import pyarrow.parquet as pq

from crossmedia.trainer.scorer import Scorer

model, server, manifest = sys.argv[1:]
names = pq.read_table(manifest, columns=["key"])["key"].to_pylist()
seen = names[:3]  # what the customer clicked, oldest first
candidates = names[-5:]
now = int(time.time())

scorer = Scorer.load(model, server=server, manifest=manifest)  # photos by the names that the manifest has
scores = scorer.score(
    {
        "user_id": "customer-7",
        "hist_item_id": seen,
        "hist_image_id": seen,
        "hist_action": ["click"] * len(seen),
        "hist_time": [now - 3600] * len(seen),
    },
    {"item_id": candidates, "image_id": candidates},
    now_s=now,
)
for score, name in sorted(zip(scores.tolist(), candidates, strict=True), reverse=True):
    print(f"{score:.3f}  {name}")
