"""Judges a model on data it has never seen."""
