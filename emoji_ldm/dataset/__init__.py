"""Versioned tables: exactly-once commits of Parquet files to Delta logs, and everything done with versions.

delta/      one Delta table: Parquet files, the log, commits, row replacement
table.py    `Table`, the interface that stages use
versions/   the history of all tables: tags, branches, diff, restore, compact, vacuum
formats/    one writer per export format
"""
