"""Whether a service of a cluster is stopped, or deleted, by now."""

from fti.common.errors import BusyError
from fti.common.inference_service.in_force import wait
from fti.common.inference_service.objects import Manifest, taken, version_of
from fti.common.inference_service.service import STOP
from fti.common.kubernetes_api import AbsentError, ConflictError, KubernetesApi

FOREGROUND, BACKGROUND = "Foreground", "Background"  # it goes after what it owns, pods too; or before
_TRIES = 20


def stopped_pending(manifest: Manifest) -> list[str]:
    """What is missing until KServe has stopped a service; an older KServe does not know how to."""
    conditions = {each["type"]: each["status"] for each in (manifest.get("status") or {}).get("conditions") or []}
    if conditions.get("Stopped") == "True":
        return []
    return [f"KServe has not stopped {manifest['metadata']['name']} (it must know the annotation {STOP})"]


def gone(
    api: KubernetesApi,
    path: str,
    where: str,
    seconds: float,
    *,
    seen: Manifest | None = None,
    policy: str = FOREGROUND,
) -> bool:
    """Deletes an object, and waits until its finalizers let it go; says whether it was there.

    Args:
        api: Where it lies.
        path: Its own path.
        where: How errors call it.
        seconds: How long to wait.
        seen: It, as it was read: only that is deleted, whatever its status says by now. None means as it is.
        policy: Whether it goes after what it owns, or before.

    Raises:
        BusyError: Somebody else has changed it since it was seen.
        ServingError: It does not go, or a right is missing.
    """
    for _ in range(_TRIES):
        found = api.get(path)
        if found is None:
            return False
        if seen is not None and version_of(found) != version_of(seen):
            raise taken(where)
        uid, version = found["metadata"]["uid"], found["metadata"]["resourceVersion"]
        preconditions = {"uid": uid, "resourceVersion": version}
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
        try:
            api.call("DELETE", path, {**options, "preconditions": preconditions})
        except ConflictError:  # it has moved: look again
            continue
        except AbsentError:  # somebody else was quicker
            return True

        def pending(uid: str = uid) -> list[str]:
            now = api.get(path)
            return [f"{where} is still being deleted"] if now and now["metadata"]["uid"] == uid else []

        wait(where, pending, list, seconds, path)
        return True
    raise BusyError(f"{where} changes all the time", remedy="Run it again")
