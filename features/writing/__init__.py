"""From logs to samples: Parquet rows that hold ids only."""
