"""materialize: the latest features into the online store."""
