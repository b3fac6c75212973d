"""ingest: any source → one typed Parquet file."""
