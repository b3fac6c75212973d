"""A model package as the predictor of an InferenceService, the same in every mode of KServe."""

import copy
from typing import Any

from fti.common.inference_service.service import DIGEST, MODEL_FORMAT, REVISION, SHADOW, Revision

_FEATURE_REPO = "--feature_repo="


def render_predictor(revision: Revision, base: dict[str, Any]) -> dict[str, Any]:
    """Renders a revision as a predictor.

    Args:
        revision: The model package.
        base: An earlier predictor, whose other fields (resources, service account, …) are kept.
    """
    predictor = copy.deepcopy(base)
    model = predictor.get("model") or {}
    args = [arg for arg in model.get("args") or [] if not arg.startswith(_FEATURE_REPO)]
    if revision.feature_repo:
        args.append(_FEATURE_REPO + revision.feature_repo)
    model = {
        "name": "",  # required by the schema of a canary; KServe sets it
        **model,
        "modelFormat": {"name": MODEL_FORMAT},
        "protocolVersion": "v2",
        "storageUri": revision.storage_uri,
        "args": args,
    }
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
    return Revision(digest=digest, storage_uri=uri, feature_repo=repos[-1] if repos else "")


def without_feature_repo(predictor: dict[str, Any]) -> dict[str, Any]:
    """The predictor with an argument that says so where it asks no feature store.

    KServe fills what a canary leaves out from the stable predictor: silence would bring that one's arguments.
    """
    model = predictor["model"]
    if any(arg.startswith(_FEATURE_REPO) for arg in model.get("args") or []):
        return predictor
    return {**predictor, "model": {**model, "args": [*(model.get("args") or []), _FEATURE_REPO]}}
