"""One writer per export format: a stream of rows -> files of the target.

image_csv     csv: images by tag, and metadata.csv       link_captions   json, txt: {link, caption}
huggingface   hf: Parquet that `load_dataset` opens      webdataset      tar shards
"""
