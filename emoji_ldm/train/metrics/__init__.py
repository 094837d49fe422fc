"""Metrics of a training: collection, the guard against gradient spikes, and trackers."""
