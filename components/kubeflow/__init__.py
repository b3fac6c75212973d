"""Pipelines on a cluster: what their steps are given, and Kubeflow's API: upload, run, follow, schedule."""
