"""Versioned tables: exactly-once commits of Parquet files to Delta logs, and reading them back."""
