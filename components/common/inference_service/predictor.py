"""A model package as the predictor of an InferenceService, the same in every mode of KServe."""

import copy
from typing import Any

from fti.common.inference_service.runtimes import FTI, RUNTIMES, package_uri, served_uri
from fti.common.inference_service.service import DIGEST, REVISION, SHADOW, Revision

_FEATURE_REPO = "--feature_repo="
_NAMED = {runtime.serving_runtime: name for name, runtime in RUNTIMES.items()}


def render_predictor(revision: Revision, base: dict[str, Any]) -> dict[str, Any]:
    """Renders a revision as a predictor.

    Args:
        revision: The model package.
        base: An earlier predictor, whose other fields (resources, service account, a runtime of the platform's own, …)
            are kept.
    """
    predictor = copy.deepcopy(base)
    model = predictor.get("model") or {}
    runtime = RUNTIMES[revision.runtime]
    args = [] if runtime.tensors else [arg for arg in model.get("args") or [] if not arg.startswith(_FEATURE_REPO)]
    if revision.feature_repo:
        args.append(_FEATURE_REPO + revision.feature_repo)
    model = {
        "name": "",  # required by the schema of a canary; KServe sets it
        **model,
        "modelFormat": {"name": runtime.model_format},
        "runtime": runtime.serving_runtime,
        "protocolVersion": "v2",
        "storageUri": served_uri(revision),
        "args": args,
    }
    own = (base.get("model") or {}).get("runtime", "")
    if runtime.automatic and own and own not in _NAMED:
        model["runtime"] = own
    elif runtime.automatic:
        del model["runtime"]
    if not args:
        del model["args"]
    annotations = {key: value for key, value in (predictor.get("annotations") or {}).items() if key != SHADOW}
    predictor["annotations"] = {**annotations, DIGEST: revision.digest}
    predictor["labels"] = {**(predictor.get("labels") or {}), REVISION: revision.name}
    return {**predictor, "model": model}


def parse_predictor(predictor: dict[str, Any]) -> Revision:
    """Reads a predictor that `render_predictor` wrote.

    Raises:
        KeyError, TypeError, AttributeError: It lacks a field, or has one of a wrong type.
    """
    model = predictor["model"]
    repos = [arg.removeprefix(_FEATURE_REPO) for arg in model.get("args") or [] if arg.startswith(_FEATURE_REPO)]
    digest, uri = predictor["annotations"][DIGEST], model["storageUri"]
    if not isinstance(digest, str) or not isinstance(uri, str):
        raise TypeError(f"{DIGEST} and storageUri must be text")
    runtime = _NAMED.get(model.get("runtime", ""), FTI)
    return Revision(digest, package_uri(uri, runtime), repos[-1] if repos else "", runtime)


def saying_all(predictor: dict[str, Any], canary: Revision, stable: Revision) -> dict[str, Any]:
    """A canary's predictor that also says what it leaves out.

    KServe fills what a canary leaves out from the stable predictor: silence would bring that one's feature repository
    and runtime.

    Args:
        predictor: As `render_predictor` made it.
        canary: What it serves.
        stable: What the stable predictor serves.
    """
    model = dict(predictor["model"])
    if stable.feature_repo and not canary.feature_repo:
        model["args"] = [*(model.get("args") or []), _FEATURE_REPO]
    if stable.runtime != canary.runtime and "runtime" not in model:
        model["runtime"] = RUNTIMES[canary.runtime].serving_runtime
    return {**predictor, "model": model}
