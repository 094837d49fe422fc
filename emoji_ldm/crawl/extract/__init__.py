"""Extraction: HTML -> tiles, and what a new site's profile needs (URL pattern, selectors).

Nothing here requests anything: every module works on the text of a page that was loaded elsewhere.
"""
