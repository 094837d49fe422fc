"""`/v1/datasets`: a data set's versions, images, captions, outcomes and changes, and captions that people correct.

    points     what a version in a URL means, and the tables there (dataset_points)
    read       pages of images and outcomes, thumbnails (dataset_pages)
               where the rows of an image are (image_index), rows in order (row_scan), filters (image_search),
               bytes of images (stored_pictures)
    compare    what changed between two versions (dataset_changes)
    correct    one caption, as a new version of the table `captions` (caption_overrides)

The modules here know neither HTTP nor keys; what a client did wrong they raise as `RequestError`.
"""
