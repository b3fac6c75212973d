"""Gives the steps of a compiled pipeline what a resource profile says.

The profile is applied to what was compiled, not to tasks in the making: so one call reaches the steps of nested
pipelines too, and those of a pipeline that is not ours. What is written is what kfp's and kfp-kubernetes' own setters
write, which a test compares.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from fti.common.errors import ConfigError
from fti.kubeflow.profile import Profile, Step
from fti.kubeflow.quantities import amount

_SHARED_MEMORY = "shared-memory"


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: the two documents of its YAML.

    Attributes:
        spec: KFP's PipelineSpec, as a map.
        platform: KFP's PlatformSpec, as a map; empty where nothing is said of the platform.
    """

    spec: Mapping[str, Any]
    platform: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step_names(self) -> set[str]:
        """What a profile can call the steps: by component and by task."""
        return {name for _, names in _executor_tasks(self.spec) for name in names}


def read_compiled(text: str) -> Compiled:
    """The pipeline of a compiled YAML.

    Raises:
        ConfigError: It is no compiled pipeline.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"the pipeline is no YAML: {' '.join(str(error).split())}") from error
    if not documents or len(documents) > 2 or not isinstance(documents[0], dict) or "pipelineInfo" not in documents[0]:
        raise ConfigError(
            "the file holds no compiled pipeline", allowed="what `fti compile` or KFP's compiler writes for a pipeline"
        )
    return Compiled(*documents)


def with_resources(compiled: Compiled, profile: Profile) -> Compiled:
    """The pipeline whose steps have what the profile says.

    A step is named by its task (`train baseline`) or by its component (`train`); the task's name goes first.

    Args:
        compiled: A pipeline; it is not changed.
        profile: What its steps are given.

    Raises:
        ConfigError: Tasks that share one executor would be given different things.
    """
    spec, platform = deepcopy(dict(compiled.spec)), deepcopy(dict(compiled.platform))
    kubernetes = platform.setdefault("platforms", {}).setdefault("kubernetes", {})
    executors = kubernetes.setdefault("deploymentSpec", {}).setdefault("executors", {})
    for label, step in _steps(spec, profile).items():
        _container(spec["deploymentSpec"]["executors"][label]["container"], step)
        executors[label] = {**executors.get(label, {}), **_pod(step)}
    for task, label in _executed(spec):
        _task(task, _steps(spec, profile)[label])
    limits = {"activeDeadlineSeconds": profile.deadline, "resourceTtlOnCompletion": profile.ttl}
    if any(limits.values()):
        kubernetes.setdefault("pipelineConfig", {}).update({k: v for k, v in limits.items() if v})
    return Compiled(spec, _without_empty(platform))


def _steps(spec: Mapping[str, Any], profile: Profile) -> dict[str, Step]:
    """What each executor is given."""
    chosen: dict[str, Step] = {}
    for label, names in _executor_tasks(spec):
        step = next((profile.steps[name] for name in names if name in profile.steps), profile.defaults)
        if chosen.setdefault(label, step) != step:
            raise ConfigError(
                f"{profile.name}: {names[0]} shares its executor with another task that is given something else",
                allowed="one set of resources for tasks that KFP compiles to one executor",
                remedy=f"Name the component, {names[-1]}, in place of the task",
            )
    return chosen


def _executor_tasks(spec: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each executor with the names of a task that it runs: its own, and its component's."""
    for task, label in _executed(spec):
        arguments = spec["deploymentSpec"]["executors"][label]["container"].get("args", [])
        function = "--function_to_execute"
        component = arguments[arguments.index(function) + 1] if function in arguments else label.removeprefix("exec-")
        yield label, (task["taskInfo"]["name"], component)


def _executed(spec: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every task that runs a container, in whatever pipeline it stands, with its executor."""
    components = spec.get("components", {})
    for dag in (spec["root"], *components.values()):
        for task in dag.get("dag", {}).get("tasks", {}).values():
            label = components[task["componentRef"]["name"]].get("executorLabel")
            if label and "container" in spec["deploymentSpec"]["executors"][label]:
                yield task, label


def _container(container: dict[str, Any], step: Step) -> None:
    resources = container.setdefault("resources", {})
    for name, bounds in (("Cpu", step.cpu), ("Memory", step.memory)):
        for bound, text in bounds.items():
            key = f"{name}{bound.capitalize()}"
            resources[f"resource{key}"] = text
            # Servers before KFP 2.4 read numbers only: cores, and gigabytes.
            resources[key[0].lower() + key[1:]] = amount(text) if name == "Cpu" else amount(text) / 1e9
    if step.accelerator:
        kind, count = step.accelerator["type"], str(step.accelerator["count"])
        resources["accelerator"] = {"type": kind, "resourceType": kind, "count": count, "resourceCount": count}
    if not resources:
        del container["resources"]
    if step.environment:
        kept = [entry for entry in container.get("env", []) if entry["name"] not in step.environment]
        container["env"] = [*kept, *({"name": name, "value": value} for name, value in step.environment.items())]
    if step.image:
        container["image"] = step.image


def _task(task: dict[str, Any], step: Step) -> None:
    if step.retries.get("count"):
        task["retryPolicy"] = {
            "maxRetryCount": step.retries["count"],
            "backoffDuration": f"{step.retries['delay']}s",
            "backoffFactor": step.retries["factor"],
            "backoffMaxDuration": f"{step.retries['longest']}s",
        }
    if not step.caching:
        task["cachingOptions"] = {}


class _Pod:
    """What kfp-kubernetes needs of a task: a place for its settings."""

    def __init__(self) -> None:
        self.platform_config: dict[str, Any] = {}


def _pod(step: Step) -> dict[str, Any]:
    from kfp import kubernetes

    pod: Any = _Pod()
    for secret in step.secrets:
        kubernetes.use_secret_as_env(pod, secret.name, dict(secret.variables), secret.optional)
    for config in step.config_maps:
        kubernetes.use_config_map_as_env(pod, config.name, dict(config.variables), config.optional)
    for label, value in step.node_selector.items():
        kubernetes.add_node_selector(pod, label, value)
    for toleration in step.tolerations:
        texts = {key: value for key, value in toleration.items() if key != "seconds"}
        kubernetes.add_toleration(pod, **texts, toleration_seconds=toleration.get("seconds"))
    for name, value in step.labels.items():
        kubernetes.add_pod_label(pod, name, value)
    for name, value in step.annotations.items():
        kubernetes.add_pod_annotation(pod, name, value)
    if step.timeout:
        kubernetes.set_timeout(pod, step.timeout)
    if step.image_pull_policy:
        kubernetes.set_image_pull_policy(pod, step.image_pull_policy)
    if step.image_pull_secrets:
        kubernetes.set_image_pull_secrets(pod, list(step.image_pull_secrets))
    if step.run_as_user:
        user = step.run_as_user
        kubernetes.set_security_context(pod, run_as_user=user, run_as_group=user, run_as_non_root=True)
    if step.shared_memory:
        kubernetes.empty_dir_mount(pod, _SHARED_MEMORY, "/dev/shm", "Memory", step.shared_memory)  # noqa: S108
    settings: dict[str, Any] = pod.platform_config.get("kubernetes", {})
    return settings


def _without_empty(platform: dict[str, Any]) -> dict[str, Any]:
    kubernetes = platform["platforms"]["kubernetes"]
    executors = kubernetes["deploymentSpec"]["executors"]
    kubernetes["deploymentSpec"]["executors"] = {label: pod for label, pod in executors.items() if pod}
    if not kubernetes["deploymentSpec"]["executors"]:
        del kubernetes["deploymentSpec"]
    return platform if kubernetes else {}
