"""Which server answers for a model package: ours, or one that KServe knows.

KServe's own runtimes for scikit-learn, XGBoost and Hugging Face load files that model packages do not have: pickles,
boosters, a transformer's folder. See docs/manifests.md.
"""

from dataclasses import dataclass

from fti.common.errors import ConfigError
from fti.common.inference_service.service import MODEL_FORMAT, Revision

FTI, GPU, TRITON = "fti", "fti-gpu", "triton"


@dataclass(frozen=True)
class Runtime:
    """A server of model packages.

    Attributes:
        model_format: The format that its ServingRuntime declares.
        serving_runtime: The ServingRuntime.
        automatic: Whether KServe finds it by the format alone, so that a platform may put its own in its place.
        tensors: Whether it takes the graph's tensors (V2 only) in place of named features.
    """

    model_format: str
    serving_runtime: str
    automatic: bool = False
    tensors: bool = False


RUNTIMES = {
    FTI: Runtime(MODEL_FORMAT, "fti-predictor", automatic=True),
    GPU: Runtime(MODEL_FORMAT, "fti-predictor-gpu"),
    TRITON: Runtime("onnx", "fti-triton", tensors=True),
}
_NOT_OURS = {
    "sklearn": "it loads a pickle (model.joblib, model.pkl), which can execute anything and no package has",
    "xgboost": "it loads a booster (model.bst, model.json, model.ubj), which no package has",
    "huggingface": "it loads a transformer's folder (config.json, a tokenizer, weights), which no package is",
}


def runtime_named(name: str) -> Runtime:
    """The runtime of a name.

    Raises:
        ConfigError: There is none, or it can serve no model package.
    """
    if name in _NOT_OURS:
        raise ConfigError(
            f"the runtime {name} cannot serve a model package: {_NOT_OURS[name]}",
            allowed=", ".join(RUNTIMES),
            remedy=f"Use {FTI}, which serves the package's model.onnx or torch program, or {TRITON} for model.onnx",
        )
    if name not in RUNTIMES:
        raise ConfigError(f"the runtime is {name!r}", allowed=", ".join(RUNTIMES))
    return RUNTIMES[name]


def served_uri(revision: Revision) -> str:
    """Where what a runtime loads lies: the package itself, or beside it what was made of it."""
    if not RUNTIMES[revision.runtime].tensors:
        return revision.storage_uri
    parent, _, package = revision.storage_uri.rpartition("/")
    return f"{parent}/{revision.runtime}/{package}"


def package_uri(served: str, runtime: str) -> str:
    """Where the package of what a runtime loads lies: the opposite of `served_uri`."""
    if not RUNTIMES[runtime].tensors:
        return served
    parent, _, package = served.rpartition("/")
    return f"{parent.removesuffix('/' + runtime)}/{package}"
