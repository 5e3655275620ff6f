"""Vectors into an online store of Feast, in a feature view that is named by their version.

python examples/hand_over/to_feast.py vectors.parquet feature_repo
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from exported import Exported
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.errors import FeatureViewNotFoundException
from feast.types import Array, Float32

file, repository = sys.argv[1:]
exported = Exported.read(file)
store, name, now = FeatureStore(repository), exported.name, datetime.now(UTC)
try:
    held = store.get_feature_view(name).tags
except FeatureViewNotFoundException:
    held = {}
exported.check_follows(held.get("point", ""))
source = Path(repository) / f"{name}.parquet"
rows = exported.vectors
if exported.removed:  # Feast takes no row back: what is null there has no vector
    gone = {"image_id": exported.removed, "vector": [None] * len(exported.removed)}
    rows = pa.concat_tables([rows, pa.table(gone, rows.schema)])
rows = rows.append_column("event_timestamp", pa.array([now] * len(rows), pa.timestamp("us", "UTC")))
if not exported.since:
    pq.write_table(rows, source)
image = Entity(name="image", join_keys=["image_id"], value_type=ValueType.INT64)
view = FeatureView(
    name=name,
    entities=[image],
    schema=[Field(name="vector", dtype=Array(Float32))],
    source=FileSource(path=source.name, timestamp_field="event_timestamp"),
    tags={"point": exported.point, "version": exported.version},
)
store.apply([image, view])
store.write_to_online_store(name, rows.to_pandas())

ids = exported.vectors["image_id"].to_pylist()[:1] + exported.removed[:1]
found = store.get_online_features([f"{name}:vector"], [{"image_id": one} for one in ids]).to_dict()
print(f"{name}: {len(rows)} written; {dict(zip(found['image_id'], found['vector'], strict=True))}")
