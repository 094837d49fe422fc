"""The gallery: a small real website full of emoji on loopback, for the demo and for the tests of the crawl.

    sample_images   the emoji: a committed fixture and rendered OpenMoji    page_templates  HTML, CSS and script
    catalog         tiles by tag, with the faults of real sites             server          HTTP server
    gallery         the site as a context manager and as a command

It is a fixture: no crawl code may import it, and it imports no crawl code.
"""
