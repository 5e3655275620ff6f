"""Catalogues: image ids and bytes from folders, tars, Parquet files and URLs."""

from crossmedia.imgserver.storage.catalogue.catalogue import Catalogue, Fingerprints, names_in, open_catalogue
from crossmedia.imgserver.storage.catalogue.remote import READ_TIMEOUT_S

__all__ = ["READ_TIMEOUT_S", "Catalogue", "Fingerprints", "names_in", "open_catalogue"]
