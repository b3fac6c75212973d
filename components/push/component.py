"""The KFP face of push."""

from kfp.dsl import Artifact, Input, Model, Output

from fti.step import step


@step
def push(
    model: Input[Model],
    blessing: Input[Artifact],
    service: str,
    endpoint: Output[Artifact],
    canary_percent: int = 100,
    feature_repo: str = "",
    runtime: str = "",
) -> None:
    """Publishes a blessed model and writes the InferenceService that gives it its traffic. Safe to run twice.

    Verifies the model package's checksums and that the blessing was given to this very model, copies the package
    to the model store, and writes the KServe InferenceService. The first model of a service becomes stable.

    Args:
        model: The model package, from train.
        blessing: The verdict on this model, of infra_validate or of evaluate alone; without it nothing is pushed.
        service: The name of the InferenceService, such as `late-arrival`.
        endpoint: JSON: service, variant, revision, digest, percent, storageUri and manifest.
        canary_percent: Share of the traffic. 100 makes the model stable and ends the trial of any canary; 1 to 99
            make it the canary; 0 makes it a canary that is only reached by the header `x-variant: canary`.
        feature_repo: The Feast repository in which the predictor looks features up; empty where every request
            carries all features.
        runtime: What serves it on a cluster: `fti`, our predictor; `fti-gpu`, the same on a GPU; `triton`, which takes
            the graph's tensors. Empty: as the service has it, and `fti` for a first model.
    """
    from fti.common.settings import Settings
    from fti.push.logic import push, write_endpoint

    pushed = push(
        model.path,
        blessing.path,
        service=service,
        settings=Settings.from_env(),
        canary_percent=canary_percent,
        feature_repo=feature_repo,
        runtime=runtime,
    )
    write_endpoint(pushed, endpoint.path)
    endpoint.metadata.update(pushed)
