"""The client process: trains CTR models on samples of ids, with image vectors fetched on demand."""
