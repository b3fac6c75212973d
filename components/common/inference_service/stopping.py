"""Whether a service of a cluster is stopped, or deleted, by now."""

from fti.common.inference_service.in_force import wait
from fti.common.inference_service.objects import Manifest
from fti.common.inference_service.service import STOP
from fti.common.kubernetes_api import AbsentError, KubernetesApi


def stopped_pending(manifest: Manifest) -> list[str]:
    """What is missing until KServe has stopped a service; an older KServe does not know how to."""
    conditions = {each["type"]: each["status"] for each in (manifest.get("status") or {}).get("conditions") or []}
    if conditions.get("Stopped") == "True":
        return []
    return [f"KServe has not stopped {manifest['metadata']['name']} (it must know the annotation {STOP})"]


def gone(api: KubernetesApi, path: str, where: str, seconds: float) -> bool:
    """Deletes an object, and waits until its finalizers let it go; says whether it was there.

    Args:
        api: Where it lies.
        path: Its own path.
        where: How errors call it.
        seconds: How long to wait.

    Raises:
        ServingError: It does not go, or a right is missing.
    """
    if api.get(path) is None:
        return False
    try:
        api.call("DELETE", path)
    except AbsentError:  # somebody else was quicker
        return True
    wait(where, lambda: [f"{where} is still being deleted"] if api.get(path) else [], list, seconds)
    return True
