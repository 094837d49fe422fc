"""continuous_batching."""
