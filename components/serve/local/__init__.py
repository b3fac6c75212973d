"""The local runner of InferenceServices: predictors behind an Envoy, as the manifests ask."""
