"""Where things are: the catalogue of photos, fixed-width rows in mapped files, the LMDB index, the table in memory, a cluster."""
