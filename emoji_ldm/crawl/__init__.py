"""The crawl: pages give tiles, and each image is fetched once and normalized to one canonical form.

    page_types      pages, tiles and the contract of a source     frontier         which URLs are still to be read
    site_profile    URL patterns and selectors of a site          crawl_state      the three tables and their commits
    sources/        browser, HTML, JSON API, records, folders     dedup            which images of a shard are new
    extract/        HTML -> tiles, pagination                     dataset_readers  items of other datasets
    politeness/     robots.txt, rate limits, address checks       dataset_import   other datasets -> our tables
    fetch/          image URLs -> canonical images                probe            what a crawl would find on a page

Data flows from left to right: `frontier` says which pages are open, a reader of `sources` turns pages into tiles,
`fetch` turns their image URLs into canonical images, `crawl_state` commits both. Nothing here knows Ray or torch;
`ray_jobs.crawl` distributes the work over a cluster.
"""
