"""KServe InferenceServices: which model packages serve under a name, with what share of the traffic.

Where they lie, `FTI_SERVING` says: `local`, manifests in a folder that `fti serve` realises; else a cluster's API,
where a write returns when traffic is split as asked: by KServe in its Standard or its Knative mode, or by two services
behind a route or a graph; `cluster` lets the cluster say which. The same functions and rules hold for all.
"""

from fti.common.inference_service.folder import manifest_path, read_manifest
from fti.common.inference_service.service import (
    API_VERSION,
    CANARY,
    DIGEST,
    KIND,
    MODE,
    MODEL_FORMAT,
    REVISION,
    SHADOW,
    STABLE,
    Revision,
    Service,
    check_name,
    pushed,
)
from fti.common.inference_service.standard import parse, render
from fti.common.inference_service.target import (
    delete_service,
    read_service,
    service_names,
    stable_package_uri,
    stop_service,
    wait_in_force,
    where,
    write_service,
)

__all__ = [
    "API_VERSION",
    "CANARY",
    "DIGEST",
    "KIND",
    "MODE",
    "MODEL_FORMAT",
    "REVISION",
    "SHADOW",
    "STABLE",
    "Revision",
    "Service",
    "check_name",
    "delete_service",
    "manifest_path",
    "parse",
    "pushed",
    "read_manifest",
    "read_service",
    "render",
    "service_names",
    "stable_package_uri",
    "stop_service",
    "wait_in_force",
    "where",
    "write_service",
]
