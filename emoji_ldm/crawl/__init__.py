"""The crawl: listing pages in a real browser, each image fetched once, cleaned to one canonical form.

    profile   what a site's listing looks like       browser   one headless Chromium
    listing   pages of a tag -> tiles                polite    robots.txt, gaps, addresses
    fetch     URL -> bytes, within all limits        clean     bytes -> canonical picture
    harvest   tiles of a shard -> images             plan      what is left to do
    outcomes  how a URL can end                      dedup     what of a shard is new

Nothing here knows Ray or torch; `ray_jobs.crawl` spreads it over a cluster.
"""
