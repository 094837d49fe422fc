"""Sources of tiles: each turns numbered pages into tiles.

source_factory    validation of the configuration; which source is used
browser_listing   listing pages in a headless browser (`browser`)     record_files  {link, caption} records of files
static_html       static HTML pages                                   file_pages    folders of image files, and
json_api          JSON image search                                                 files as numbered pages
page_outcomes     how a page ends, the same for all web sources
open_page         a page in the browser: when it is       sitemap       pages that only the sitemap lists
                  ready; `open_requests` it waits for     scripts/      what runs inside the page
rendered_page     what it shows further down

Each source has `PageNames` (which pages there are) and a `PageReader` (which reads them).
"""
