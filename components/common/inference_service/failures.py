"""Why a model will not come up on a cluster, as its pods, its Deployments and KServe say."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fti.common.inference_service.service import REVISION, Revision
from fti.common.kubernetes_api import KubernetesApi
from fti.common.masking import masked

_NO_IMAGE = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_NO_CONTAINER = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_CRASHES = 2  # a first one may be a store that was not there yet
# Of KServe, before there is a pod: pkg/apis/serving/v1beta1/inference_service_status.go.
_NO_RUNTIME = {"NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled", "InvalidPredictorSpec"}


@dataclass(frozen=True)
class Failure:
    """Why something does not come up.

    Attributes:
        reason: One word, as Kubernetes says it.
        text: A sentence.
        remedy: What to do.
        final: Whether waiting is in vain; else it may mend itself.
    """

    reason: str
    text: str
    remedy: str
    final: bool = True


def failures(name: str, revisions: Iterable[Revision], manifest: dict[str, Any], api: KubernetesApi) -> list[Failure]:
    """What keeps models from coming up; only pods of these very models count.

    Args:
        name: The InferenceService.
        revisions: Its models.
        manifest: It, with its status.
        api: Where its pods are.
    """
    found: list[Failure] = []
    for revision in revisions:
        found += of_pods(f"serving.kserve.io/inferenceservice={name},{REVISION}={revision.name}", api)
    deployments = f"apis/apps/v1/namespaces/{api.namespace}/deployments"
    for deployment in api.items(deployments, f"serving.kserve.io/inferenceservice={name}"):
        found += _of_deployment(deployment)
    info = ((manifest.get("status") or {}).get("modelStatus") or {}).get("lastFailureInfo") or {}
    if info.get("reason") in _NO_RUNTIME:  # it may still be that of the model before
        text = f"KServe cannot serve it: {info['reason']}: {info.get('message', '')}".rstrip(": ")
        found.append(Failure(info["reason"], text, "Apply manifests/base/serving-runtimes.yaml", final=False))
    return found


def of_pods(labels: str, api: KubernetesApi) -> list[Failure]:
    """What keeps the pods with these labels from coming up."""
    pods = api.items(f"api/v1/namespaces/{api.namespace}/pods", labels)
    return [failure for pod in pods if not pod["metadata"].get("deletionTimestamp") for failure in _of_pod(pod)]


def _of_pod(pod: dict[str, Any]) -> Iterator[Failure]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            text = f"no node takes pod {name}: {condition.get('message', '')}".rstrip(": ")
            yield Failure("Unschedulable", text, "Ask for less, or add a node such as it asks for", final=False)
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if not container.get("ready"):  # what it once died of is over
            yield from _of_container(name, container)


def _of_container(pod: str, container: dict[str, Any]) -> Iterator[Failure]:
    waiting = (container.get("state") or {}).get("waiting") or {}
    ended = [(container.get(key) or {}).get("terminated") or {} for key in ("state", "lastState")]
    reason, where = waiting.get("reason", ""), f"pod {pod}, container {container['name']}"
    said = masked(str(waiting.get("message", "")))
    if any(end.get("reason") == "OOMKilled" for end in ended):
        yield Failure("OOMKilled", f"{where}: out of memory", "Raise resources.limits.memory of the predictor")
    elif reason in _NO_IMAGE:
        yield Failure(reason, f"{where}: {reason}: {said}", "Correct the image, or give the right to pull it")
    elif reason in _NO_CONTAINER:
        remedy = "A secret or config map lacks what the pod asks for: `fti doctor` says which"
        yield Failure(reason, f"{where}: {reason}: {said}", remedy)
    elif reason == "CrashLoopBackOff" and container.get("restartCount", 0) >= _CRASHES:
        last: dict[str, Any] = next((end for end in reversed(ended) if end), {})
        words = masked(str(last.get("message", "")).strip()[-500:])
        text = f"{where} ends again and again, exit code {last.get('exitCode', 'unknown')}"
        yield Failure(reason, f"{text}: {words}".rstrip(": "), f"kubectl logs {pod} -c {container['name']} --previous")


def _of_deployment(deployment: dict[str, Any]) -> Iterator[Failure]:
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            text = f"Deployment {deployment['metadata']['name']} gets no pod: {condition.get('message', '')}"
            remedy = "A quota, a limit or Pod Security refuses the pod: ask for less, or have it raised"
            yield Failure(condition.get("reason", "ReplicaFailure"), text.rstrip(": "), remedy, final=False)
