"""The Delta protocol below `Table`: data files, log entries, snapshots and commits.

    parquet_writer -> snapshot -> delta_log -> delta_commit -> upsert -> ../table.py      (each imports those before it)

Protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""
