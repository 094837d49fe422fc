"""Judging a run: what it made, beside what it learnt from."""
