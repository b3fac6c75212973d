"""Starts the exact server on the exact model package, and holds it against training before it is pushed."""
