"""Parquet that is kept: partitions by date and hour, in a directory or a bucket."""
