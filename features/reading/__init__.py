"""From samples to batches, drawn in order or at random, with vectors fetched ahead."""
