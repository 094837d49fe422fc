"""The crawl: pages give tiles, each image is fetched once and cleaned to one canonical form.

    sources   pages by browser, HTML, API, records, folders   gate      when a URL may be requested, over all workers
    profile   what a site's pages or an API's answers are     fetch     URL -> bytes, within all limits
    page      what a source gives: pages of tiles             harvest   tiles of a shard -> images
    finder    HTML -> tiles, by selectors or structure        clean     bytes -> canonical picture
    browser   one headless Chromium                           dedup     what of a shard is new
    probe     what a crawl would find on one page             plan      which pages are left to read
    outcomes  how a URL can end                               ledger    what is crawled, and commits of more

Nothing here knows Ray or torch; `ray_jobs.crawl` spreads it over a cluster.
"""
