"""The deployment pipeline: a judged model package in, traffic on an InferenceService out."""

from kfp import dsl

from fti.pipelines import reference
from fti.push.component import push
from fti.step import uncached


@dsl.pipeline(name="fti-deployment", display_name="Deployment")
def deployment(
    model_uri: str,
    blessing_uri: str,
    service: str = reference.SERVICE,
    canary_percent: int = 20,
    feature_repo: str = reference.FEATURE_REPO,
) -> None:
    """Gives a blessed model its share of an InferenceService's traffic.

    Args:
        model_uri: The model package: the `model` output of a training run.
        blessing_uri: The judgement on that package: the `blessing` output of the same run.
        service: The InferenceService to create or change.
        canary_percent: Share of the traffic, 0 to 100; 100 makes the model the stable one.
        feature_repo: The Feast repository from which the served model reads features.
    """
    model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model)
    blessing = dsl.importer(artifact_uri=blessing_uri, artifact_class=dsl.Artifact)
    uncached(
        push(
            model=model.output,
            blessing=blessing.output,
            service=service,
            canary_percent=canary_percent,
            feature_repo=feature_repo,
        )
    )
