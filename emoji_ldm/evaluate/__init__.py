"""Evaluation of a run: the report, nearest neighbours of generated images, and training curves."""
