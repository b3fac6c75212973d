"""Trains a model and writes it as a model package."""
