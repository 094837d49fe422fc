"""The Delta protocol below `Table`: data files, log entries, snapshots and commits.

    parquet_writer -> parquet_reader, snapshot -> delta_log -> delta_commit -> upsert -> ../table.py

Each imports those before it only.

Protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""
