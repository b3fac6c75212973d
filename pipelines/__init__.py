"""The pipelines composed of the components: features, training, deployment, and the whole loop."""
