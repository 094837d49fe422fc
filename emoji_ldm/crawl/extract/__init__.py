"""Extraction: HTML -> tiles, and the URL pattern that a new site's profile needs.

Nothing here requests anything: every module works on the text of a page that was loaded elsewhere.
"""
