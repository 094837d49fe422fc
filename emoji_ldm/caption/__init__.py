"""Captions: one sentence of a fixed form per picture, and the same facts as columns."""
