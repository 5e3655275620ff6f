"""From logs to samples to batches: impressions become Parquet rows of ids only, and rows become jagged batches.

numpy and Arrow only; tensors are the trainer's business.
"""
