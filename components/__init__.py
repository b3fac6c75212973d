"""kfp-fti: Kubeflow Pipelines components for features, training and inference."""
