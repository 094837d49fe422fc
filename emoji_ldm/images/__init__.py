"""Images: decoding untrusted files, canonical pixels, fingerprints, and near-duplicate search.

    decode                bytes -> upright sRGB RGBA image      svg         SVG -> PNG in a restricted process
    normalize             bytes -> canonical PNG and its id     fingerprint pixels -> appearance in two kilobytes
    near_duplicate_index  fingerprints -> known images that look the same; appearance_distance compares two of them

The crawl, training and generation share this package; it imports none of them.
"""
