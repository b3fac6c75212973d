"""Kubeflow Pipelines as these tests see it."""
