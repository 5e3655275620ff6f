"""Catalogues: image ids and bytes from folders, tars, Parquet files and URLs."""

from imgserver.storage.catalog.catalog import READ_TIMEOUT_S, Catalog, Fingerprints, names_in, open_catalog

__all__ = ["READ_TIMEOUT_S", "Catalog", "Fingerprints", "names_in", "open_catalog"]
