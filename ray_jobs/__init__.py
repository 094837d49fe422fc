"""Thin wiring of the library onto Ray: one file per stage word."""
