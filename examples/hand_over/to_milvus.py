"""Vectors into a collection of Milvus, named by their version.

python examples/hand_over/to_milvus.py vectors.parquet http://localhost:19530
"""

from __future__ import annotations

import sys

from exported import Exported
from pymilvus import DataType, MilvusClient

BLOCK = 10_000

file, where = sys.argv[1:]
exported = Exported.read(file)
client = MilvusClient(where)  # a file that ends in .db: Milvus Lite, in this process
name, size = exported.name, exported.vectors.schema.field("vector").type.list_size
held = client.describe_collection(name)["properties"] if client.has_collection(name) else {}
exported.check_follows(held.get("point", ""))
if not exported.since:
    client.drop_collection(name)
    schema = MilvusClient.create_schema()
    schema.add_field("image_id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=size)
    index = client.prepare_index_params("vector", index_type="AUTOINDEX", metric_type="L2")
    client.create_collection(name, schema=schema, index_params=index)
rows = exported.rows()
for start in range(0, len(rows), BLOCK):
    client.upsert(name, rows[start : start + BLOCK])
if exported.removed:
    client.delete(name, ids=exported.removed)
client.alter_collection_properties(name, {"point": exported.point, "version": exported.version})

client.load_collection(name)
count = client.query(name, output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]
image = client.query(name, "image_id >= 0", output_fields=["vector"], limit=1, consistency_level="Strong")[0]
near = [found["image_id"] for found in client.search(name, [image["vector"]], limit=3)[0]]
print(f"{name}: {count} vectors; nearest to {image['image_id']}: {near}")
