"""The gallery: a small real web site full of emoji, for the demo and for the crawl's tests.

It is a fixture. No crawl code may know it, and it knows no crawl code.
"""
