"""The studio: the web page at `/`, static files that speak to the public HTTP API alone."""
