"""What push, promote, rollback and rollout ask of the Kubernetes API; `manifests/base/rights.yaml` grants it."""

RIGHTS = {
    (verb, resource)
    for resource, verbs in {
        "inferenceservices.serving.kserve.io": ("get", "list", "create", "patch", "delete"),
        "deployments.apps": ("get", "list"),
        "pods": ("list",),
        "httproutes.gateway.networking.k8s.io": ("get",),
        "configmaps": ("get", "create", "patch", "delete"),
    }.items()
    for verb in verbs
}
