"""Where things are: catalogues, fixed-width rows in mapped files, the LMDB index, tables in memory, a cluster."""
