"""One writer per export format: rows in a stream -> files of the target.

reference   csv: JPEGs by tag and metadata.csv      records      json, txt: {link, caption}
hub         hf: Parquet that `load_dataset` opens   webdataset   tar shards
"""
