"""Vectors into a collection of Qdrant, named by their version.

python examples/hand_over/to_qdrant.py vectors.parquet http://localhost:6333
"""

from __future__ import annotations

import sys
from typing import Any

from exported import Exported
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointIdsList, PointStruct, VectorParams

file, where = sys.argv[1:]
exported = Exported.read(file)
client = QdrantClient(where) if where.startswith("http") else QdrantClient(path=where)  # a folder: in this process
name, size = exported.name, exported.vectors.schema.field("vector").type.list_size
held = client.get_collection(name).config.metadata if client.collection_exists(name) else None
exported.check_follows((held or {}).get("point", ""))
if not exported.since:
    client.delete_collection(name)
    client.create_collection(name, VectorParams(size=size, distance=Distance.EUCLID))
points = [PointStruct(id=row["image_id"], vector=row["vector"]) for row in exported.rows()]
client.upload_points(name, points, wait=True)
if exported.removed:
    client.delete(name, PointIdsList(points=[*exported.removed]), wait=True)
client.update_collection(name, metadata={"point": exported.point, "version": exported.version})

(image,), _ = client.scroll(name, limit=1, with_vectors=True)
vector: Any = image.vector
near = [found.id for found in client.query_points(name, vector, limit=3).points]
print(f"{name}: {client.count(name).count} vectors; nearest to {image.id}: {near}")
client.close()
