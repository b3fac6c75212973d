"""Objects of a cluster written on what was read: whoever comes second is told, and only a status may move meanwhile."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from fti.common.errors import BusyError
from fti.common.inference_service.service import CANARY_COLOUR, MODE, STABLE_COLOUR, STOP
from fti.common.kubernetes_api import ConflictError, KubernetesApi, merge_patch

Manifest = dict[str, Any]

_TRIES = 20
_STRICT = {"fieldValidation": "Strict"}  # else an older KServe drops what it does not know, without a word
_ASKED = (MODE, STOP, STABLE_COLOUR, CANARY_COLOUR)


def apply(
    api: KubernetesApi, path: str, base: Manifest | None, render: Callable[[Manifest | None], Manifest], where: str
) -> Manifest:
    """Makes or changes an object; where only its status has moved since it was read, that is no conflict.

    Args:
        api: Where it lies.
        path: Its own path.
        base: As it was read; None where it was not there.
        render: Makes of what it is what it shall be; only its spec, labels and annotations are written.
        where: How errors call it.

    Returns:
        It, as it is now.

    Raises:
        BusyError: Somebody else changed it since it was read.
        ServingError: The API server refuses it.
    """
    for _ in range(_TRIES):
        try:
            if base is None:
                return api.call("POST", path.rpartition("/")[0], render(None), _STRICT)
            patch = merge_patch(_written(base), _written(render(base)))
            patch.setdefault("metadata", {})["resourceVersion"] = base["metadata"]["resourceVersion"]
            changed: Manifest = api.call("PATCH", path, patch, _STRICT)
            return changed
        except ConflictError:
            found = api.get(path)
            if found is None or base is None or version_of(found) != version_of(base):
                raise taken(where) from None
            base = found
    raise BusyError(f"{where} changes all the time", remedy="Run it again")


def _written(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    return {
        "spec": manifest["spec"],
        "metadata": {key: metadata.get(key) or {} for key in ("annotations", "labels")},
    }


def version_of(*manifests: Manifest | None) -> str:
    """What manifests ask for, in short; their status does not count."""
    asked = [_asked(manifest) for manifest in manifests]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _asked(manifest: Manifest | None) -> object:
    if manifest is None:
        return None
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations") or {}
    return [metadata.get("uid", ""), manifest["spec"], *(annotations.get(name, "") for name in _ASKED)]


def taken(where: str) -> BusyError:
    """The error of whoever comes second."""
    return BusyError(f"somebody else changed {where} at the same time", remedy="Look at it, then run this again")
