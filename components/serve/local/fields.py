"""What a manifest may say: fields that this machine honours, fields that only a cluster heeds, and no others.

The names are those of KServe 0.20's CustomResourceDefinition of InferenceServices, `serving.kserve.io/v1beta1`.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from fti.common.errors import ServingError
from fti.common.inference_service import CANARY, DIGEST, MODE, MODEL_FORMAT, SHADOW
from fti.common.inference_service.runtimes import FTI, RUNTIMES
from fti.common.inference_service.service import STOP, UNIT

Fields = dict[str, Any]

_METADATA_FIELDS = """
    annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName generation labels
    managedFields name namespace ownerReferences resourceVersion selfLink uid
"""
_FRAMEWORKS = "containers huggingface lightgbm onnx paddle pmml pytorch sklearn tensorflow triton xgboost"
_PREDICTOR_FIELDS = """
    activeDeadlineSeconds affinity annotations autoScaling automountServiceAccountToken batcher canaryTrafficPercent
    containerConcurrency deploymentStrategy dnsConfig dnsPolicy enableServiceLinks ephemeralContainers hostAliases
    hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets initContainers labels logger
    maxReplicas minReplicas model name nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName
    readinessGates resourceClaims resources restartPolicy runtimeClassName scaleMetric scaleMetricType scaleTarget
    schedulerName schedulingGates securityContext serviceAccount serviceAccountName setHostnameAsFQDN
    shareProcessNamespace storageContainerName storageUris subdomain terminationGracePeriodSeconds timeout tolerations
    topologySpreadConstraints volumes workerSpec
"""
_MODEL_FIELDS = """
    args command confidential env envFrom image imagePullPolicy lifecycle livenessProbe modelFormat name ports
    protocolVersion readinessProbe resizePolicy resources restartPolicy restartPolicyRules runtime runtimeVersion
    securityContext startupProbe stdin stdinOnce storage storageUri terminationMessagePath terminationMessagePolicy tty
    volumeDevices volumeMounts workingDir
"""
_METADATA, _MODEL, _OTHER_MODELS = set(_METADATA_FIELDS.split()), set(_MODEL_FIELDS.split()), set(_FRAMEWORKS.split())
_PREDICTOR = _OTHER_MODELS | set(_PREDICTOR_FIELDS.split())
_MANIFEST = {"apiVersion", "kind", "metadata", "spec", "status"}
_PROTOCOLS = ("v1", "v2", "grpc-v2")  # which the predictor speaks
_FEATURE_REPO = "--feature_repo="
_TENSORS = {runtime.serving_runtime for runtime in RUNTIMES.values() if runtime.tensors}
# What is left to a cluster, unless it says what holds here too: as push writes it, or as KServe fills it in.
_SAME_HERE: Fields = {"minReplicas": {1}, "name": {"", CANARY, "canary2"}}
_MODELS_SAME_HERE: Fields = {"name": {"", "kserve-container"}, "runtime": {"", RUNTIMES[FTI].serving_runtime}}


def check_fields(manifest: Fields, where: str) -> tuple[str, ...]:
    """Refuses what means nothing, or would change the answers; names what is left to a cluster.

    Args:
        manifest: A manifest that `fti.common.inference_service.parse` has read.
        where: How errors call it.

    Returns:
        For each part of it the fields that only a cluster heeds, in words.

    Raises:
        ServingError: It has a field that KServe does not know, a value that nobody knows, or a transformer, an
            explainer or a predictor other than a model package.
    """
    metadata, spec = manifest["metadata"], manifest["spec"]
    _refuse_unknown(manifest, _MANIFEST, where)
    _refuse_unknown(metadata, _METADATA, f"{where}: metadata")
    for part, named in {"transformer": "a transformer", "explainer": "an explainer"}.items():
        if spec.get(part) is not None:
            raise ServingError(f"{where} has {named}, which only a cluster runs", remedy="Remove it to serve locally")
    _refuse_unknown(spec, {"predictor", "canary", "transformer", "explainer"}, f"{where}: spec")
    annotations = _annotations(metadata, {UNIT, MODE, STOP}, f"{where}: metadata")
    left = {
        "metadata": [*sorted(metadata.keys() & {"deletionGracePeriodSeconds", "deletionTimestamp"}), *annotations],
        "predictor": _left_of(spec["predictor"], {DIGEST}, f"{where}: predictor"),
    }
    for canary in spec.get("canary") or []:
        _refuse_unknown(canary, {"predictor", "trafficPercent"}, f"{where}: canary")
        left[CANARY] = _left_of(canary["predictor"], {DIGEST, SHADOW}, f"{where}: canary")
    return tuple(f"{part}: only a cluster heeds {', '.join(names)}" for part, names in left.items() if names)


def _left_of(predictor: Fields, annotations: set[str], where: str) -> list[str]:
    """Checks a predictor, and names what of it is left to a cluster."""
    _refuse_unknown(predictor, _PREDICTOR, where)
    if "canaryTrafficPercent" in predictor:
        raise ServingError(f"{where} has a canaryTrafficPercent, which Standard mode ignores", allowed="spec.canary")
    said, model = _said(predictor), predictor["model"]
    _check_model(model, where)
    others = sorted(said.keys() & _OTHER_MODELS)
    if others:
        raise ServingError(f"{where} has {', '.join(others)} beside its model", allowed="a model package alone")
    honoured = {"model", "annotations", "labels"}
    models = {"modelFormat", "protocolVersion", "storageUri", "args"}
    return [
        *sorted(key for key in said.keys() - honoured if not _holds_here(said[key], _SAME_HERE.get(key))),
        *sorted(
            f"model.{key}"
            for key, value in _said(model).items()
            if key not in models and not _holds_here(value, _MODELS_SAME_HERE.get(key))
        ),
        *_annotations(predictor, annotations, where),
    ]


def _check_model(model: Fields, where: str) -> None:
    _refuse_unknown(model, _MODEL, f"{where}: model")
    if model.get("runtime") in _TENSORS:
        raise ServingError(
            f"{where} runs on {model['runtime']}, which only a cluster has", remedy=f"Push it for the runtime {FTI}"
        )
    args = _args(model, where)
    unknown = [arg for arg in args if not arg.startswith(_FEATURE_REPO)]
    if model.get("modelFormat", {}).get("name") != MODEL_FORMAT or unknown:
        got = f"the arguments {unknown}" if unknown else "another model format"
        raise ServingError(f"{where} has {got}", allowed="a model package as push writes it")
    if len(args) > 1:
        raise ServingError(f"{where} has {len(args)} feature repositories", allowed=f"one {_FEATURE_REPO}…")
    _refuse_unknown(model["modelFormat"], {"name", "version"}, f"{where}: modelFormat")
    version, protocol = model["modelFormat"].get("version"), model.get("protocolVersion")
    if version is not None:  # no ServingRuntime of ours declares one, so KServe would find none
        raise ServingError(f"{where} has version {version!r} of the model format", allowed="none")
    if protocol not in (None, *_PROTOCOLS):
        raise ServingError(f"{where} has the protocolVersion {protocol!r}", allowed=", ".join(_PROTOCOLS))


def _args(model: Fields, where: str) -> list[str]:
    args = model.get("args") or []
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise ServingError(f"{where} has the args {args!r}", allowed=f"a list of text, such as [{_FEATURE_REPO}PATH]")
    return args


def _annotations(of: Fields, honoured: set[str], where: str) -> list[str]:
    """Checks annotations, and names KServe's own that are left to a cluster. Those of others are nobody's business."""
    annotations: Fields = of.get("annotations") or {}
    own = sorted(name for name in honoured if name.startswith("fti/"))
    for name, value in annotations.items():
        if name.startswith("fti/") and name not in own:
            raise ServingError(f"{where} has the annotation {name}", allowed=", ".join(own))
        text = str(value).lower() if name == STOP else value  # KServe reads that one in any case
        if name in honoured & {SHADOW, STOP} and text not in ("true", "false"):
            raise ServingError(f"{where} has {name}: {value!r}", allowed='"true" or "false"')
    return [name for name in annotations if name.startswith("serving.kserve.io/") and name not in honoured]


def _holds_here(value: Any, same: set[Any] | None) -> bool:
    return same is not None and isinstance(value, int | str) and value in same


def _said(fields: Fields) -> Fields:
    """What KServe would see: for it, null and an empty list are as if they were left out."""
    return {key: value for key, value in fields.items() if value is not None and value != []}


def _refuse_unknown(fields: Iterable[Any], known: set[str], where: str) -> None:
    for name in fields:
        if name not in known:
            same = [each for each in known if each.lower() == str(name).lower()]
            close = same or get_close_matches(str(name), known, 1)
            raise ServingError(
                f"{where} has the field {name}, which KServe does not know",
                remedy=f"Write {close[0]}, if that is meant" if close else "Remove it",
            )
