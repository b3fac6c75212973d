"""What this library and Kubeflow Pipelines ask of the Kubernetes API; `manifests/base/rights.yaml` grants it."""

# Push, promote, rollback, rollout, evaluate.
RIGHTS = {
    (verb, resource)
    for resource, verbs in {
        "inferenceservices.serving.kserve.io": ("get", "list", "create", "patch", "delete"),
        "deployments.apps": ("get", "list"),
        "pods": ("list",),
        "httproutes.gateway.networking.k8s.io": ("get", "create", "patch", "delete"),
        "inferencegraphs.serving.kserve.io": ("get", "create", "patch", "delete"),
        "configmaps": ("get", "create", "patch", "delete"),
    }.items()
    for verb in verbs
}
# Kubeflow Pipelines itself, of the account of every run: Argo's executor, and the launcher, which reads the keys of the
# artifact store. A resource's name may follow it.
RUN_RIGHTS = {
    ("create", "workflowtaskresults.argoproj.io"),
    ("patch", "workflowtaskresults.argoproj.io"),
    ("get", "secrets/mlpipeline-minio-artifact"),
}
# Some of what a predictor's account must not have: it needs nothing at all.
TOO_MUCH = {("get", "secrets"), ("list", "pods"), ("patch", "inferenceservices.serving.kserve.io")}

# In KServe's namespace, once for the cluster: how traffic can be split. `manifests/cluster/rights.yaml` grants it.
SETTINGS_RIGHT = ("get", "configmaps/inferenceservice-config")
GATEWAY_RIGHT = ("get", "gateways.gateway.networking.k8s.io")  # in the Gateway's namespace, should that be another
KSERVE_RIGHTS = {SETTINGS_RIGHT, GATEWAY_RIGHT}
