"""Imports without a package that the imported one would load too, but that is of no use here."""

from __future__ import annotations
