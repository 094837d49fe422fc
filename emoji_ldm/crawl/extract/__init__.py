"""Tiles of a page: which pictures it shows, which of them are its listing, and what they are called.

page_tree       pictures with the elements around them      tile_extractor      the tiles of a page
static_tree     the tree of static HTML                     image_groups        groups of similar pictures
image_sources   the best address of a picture               page_places         what stands beside the listing
pagination      numbered pages and next links               titles              where tiles have their names
page_links      words on such links                         selector_inference  a selector of the tiles
html_limits     markup that is too expensive to parse
"""
