"""Vectors in a Redis-protocol cluster, shared by copies of a server."""
