"""Serving: the predictor that runs inside KServe, and the local realisation of InferenceServices behind Envoy."""
