"""Where things are: catalogues of photos, fixed-width rows in mapped files, the LMDB index, tables in memory, a cluster."""
