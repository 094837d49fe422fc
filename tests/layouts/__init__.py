"""A corpus of listing pages as they are in the wild, with their truth.

Serve one site in a test or a script, and judge what was found:

    with corpus_site("masonry", variant=1, seed=7) as site:
        site.entry                      # URL of the first listing page
        site.tag                        # the part of that address which names the listing
        site.truth                      # TruthTile(url, title, accept, picture, page) for every emoji of all pages
        site.server.log                 # (time, method, target) of all requests that came
        print(site.check([(tile.image_url, tile.title) for tile in found]).report())

Serve all layouts for a look with one's own browser: `python -m tests.layouts [LAYOUT...] [--seed N] [--truth]`.
Measure the crawl on them: `python -m tests.bench crawl-layouts`, or with options of its own
`python -m tests.bench.crawl_layouts --only masonry table --variant 1 --seed 7 --verbose`.

`corpus.LAYOUTS` names the layouts. Each has two variants: class names are hashed anew, emoji, order, noise, page sizes,
delays and spellings are drawn anew, and where a layout has two manners (say, links or buttons) each variant has one.
Another seed gives other sites of the same kinds; nothing should hold for one seed only.

A found tile is right if its address is the best one that the page names for an emoji of the listing (`TruthTile.url`:
the largest candidate, the original behind a proxy, not the placeholder) or one as good (`accept`). An emoji that has no
file of its own (inline SVG) is right as the sprite's address with its fragment, or as a `data:` URL of an SVG or image
that shows the same picture (`picture`). Titles are compared in lower case with single spaces.

`hostile.PAGES` are pages that try to stop, trap or misuse the browser.
"""

from tests.layouts.corpus import LAYOUTS, VARIANTS, CorpusSite, corpus_site
from tests.layouts.truth import Comparison, TruthTile, compare, normalize_title

__all__ = ["LAYOUTS", "VARIANTS", "Comparison", "CorpusSite", "TruthTile", "compare", "corpus_site", "normalize_title"]
