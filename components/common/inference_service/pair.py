"""The two InferenceServices that are one service, and what splits between them: as they were read."""

import logging
from dataclasses import dataclass, field, replace

from fti.common.errors import ServingError
from fti.common.inference_service import standard
from fti.common.inference_service.fronts import BLUE, GREEN, Front, split_of
from fti.common.inference_service.objects import Manifest, version_of
from fti.common.inference_service.service import API_VERSION, SERVICE, Service, is_stopped
from fti.common.kubernetes_api import KubernetesApi

log = logging.getLogger(__name__)


@dataclass
class State:
    """What there is of a service.

    Attributes:
        front: What splits, as it was read or last written.
        models: Colour to InferenceService, likewise.
    """

    front: Manifest | None
    models: dict[str, Manifest] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """What all of it asks for, in short."""
        return version_of(self.front, *(self.models.get(colour) for colour in (BLUE, GREEN)))


def half_path(name: str, colour: str, api: KubernetesApi) -> str:
    """Where one of both lies."""
    return f"apis/{API_VERSION}/namespaces/{api.namespace}/inferenceservices/{name}-{colour}"


def half_where(name: str, colour: str, api: KubernetesApi) -> str:
    """How errors call it."""
    return f"InferenceService {api.namespace}/{name}-{colour}"


def read_state(name: str, front: Front, api: KubernetesApi) -> State:
    """Reads what there is of a service.

    Raises:
        ServingError: One of both was not made by a push.
    """
    found = {colour: api.get(half_path(name, colour, api)) for colour in (BLUE, GREEN)}
    models = {colour: manifest for colour, manifest in found.items() if manifest is not None}
    for colour, manifest in models.items():
        if (manifest["metadata"].get("labels") or {}).get(SERVICE) != name:
            where = half_where(name, colour, api)
            raise ServingError(f"{where} was not made by a push", remedy="Choose another name, or delete it first")
    return State(api.get(front.path(name)), models)


def service_of(name: str, state: State, front: Front, api: KubernetesApi) -> Service | None:
    """The service that it is; None where nothing splits, or the stable model is gone.

    Raises:
        ServingError: Something is not as push writes it.
    """
    if state.front is None:
        return None
    where = f"{front.kind} {api.namespace}/{name}"
    split = split_of(front, name, state.front, where)
    if split.stable not in state.models:
        log.warning("%s sends requests to %s-%s, which is gone", where, name, split.stable)
        return None
    revisions = {
        colour: standard.parse(manifest, half_where(name, colour, api)).stable
        for colour, manifest in state.models.items()
    }
    stopped = any(map(is_stopped, (state.front, *state.models.values())))  # a stop, or a start, that was cut off too
    service = Service(name, revisions[split.stable], stopped=stopped, version=state.version)
    if split.canary not in revisions:  # none, or it was deleted by hand
        return service
    return replace(service, canary=revisions[split.canary], canary_percent=split.percent)
