"""Work on a whole catalogue: embed it, here or by shards; make, compress, compare, publish and exchange vectors."""
