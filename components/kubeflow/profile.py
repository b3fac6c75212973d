"""A resource profile: what a pipeline's steps are given on a cluster, in one small YAML file.

    run: {deadline: 6h, ttl: 7d}
    defaults:
      cpu: {request: 500m, limit: "2"}
      memory: {request: 1Gi, limit: 4Gi}
      secrets: {fti-object-store: [AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY]}
    steps:
      train: {accelerator: {type: nvidia.com/gpu, count: 1}}

What a step says of itself takes the default's place, key by key; `null` leaves the default out. A profile names secrets
and holds none.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from fti.common.errors import ConfigError, StorageError
from fti.kubeflow import entries as parse
from fti.kubeflow.quantities import seconds

_PARTS = ("run", "defaults", "steps")
_RUN = ("deadline", "ttl")


@dataclass(frozen=True)
class Step:
    """What one step is given; empty means that the cluster decides.

    Attributes:
        cpu: `request` and `limit`, cores.
        memory: `request` and `limit`, bytes.
        accelerator: `type`, the resource's name, and `count`.
        shared_memory: Size of /dev/shm, bytes; it counts as memory of the step.
        node_selector: Labels that a node must carry.
        tolerations: Taints that a node may carry, as Kubernetes writes them.
        retries: `count`, and the pause before each: `delay`, multiplied by `factor`, at most `longest`; seconds.
        timeout: Seconds after which an attempt is ended.
        caching: False runs the step each time; steps with side effects run each time anyway.
        environment: Variables with their values, none of them secret.
        secrets: Per secret the variables and the keys that they come from, and whether it may be missing.
        config_maps: The same for config maps.
        image: Another image than the library's own.
        image_pull_policy: Always, IfNotPresent or Never.
        image_pull_secrets: Names of secrets.
        run_as_user: The user and group as which it runs, by number; 0: as its image says, which Pod Security
            "restricted" does not believe.
        labels: Of the pod.
        annotations: Of the pod.
    """

    cpu: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, str] = field(default_factory=dict)
    accelerator: Mapping[str, Any] = field(default_factory=dict)
    shared_memory: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    retries: Mapping[str, Any] = field(default_factory=dict)
    timeout: int = 0
    caching: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[parse.Reference, ...] = ()
    config_maps: tuple[parse.Reference, ...] = ()
    image: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    run_as_user: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "cpu": parse.bounds,
    "memory": parse.bounds,
    "accelerator": parse.accelerator,
    "shared_memory": parse.size,
    "node_selector": parse.labels,
    "tolerations": parse.tolerations,
    "retries": parse.retries,
    "timeout": seconds,
    "caching": parse.flag,
    "environment": parse.environment,
    "secrets": parse.references,
    "config_maps": parse.references,
    "image": parse.image,
    "image_pull_policy": parse.pull_policy,
    "image_pull_secrets": parse.names,
    "run_as_user": parse.user,
    "labels": parse.labels,
    "annotations": parse.annotations,
}


@dataclass(frozen=True)
class Profile:
    """What the steps of a pipeline are given, and how long its run may take.

    Attributes:
        name: The file it was read from, or the name under which it comes with the library.
        defaults: For each step that is not named.
        steps: By the component's name or the task's; defaults are already in it.
        deadline: Seconds after which a run is ended; 0: never.
        ttl: Seconds for which the finished Workflow is kept; 0: as the cluster does. Runs and artifacts stay.
    """

    name: str
    defaults: Step
    steps: Mapping[str, Step]
    deadline: int = 0
    ttl: int = 0

    def require_steps(self, known: Collection[str]) -> None:
        """Finds misspelt steps.

        Raises:
            ConfigError: The profile names a step that is not known.
        """
        for name in self.steps:
            parse.require_known(name, known, f"{self.name}: steps")


def profile_named(name: str) -> Profile:
    """The profile of a file, or one that comes with the library.

    Args:
        name: A path to a YAML file; or `small`, `gpu`.

    Raises:
        ConfigError: Anything in it that cannot be used; the message says where.
        StorageError: The file cannot be read.
    """
    own = {
        f.name.removesuffix(".yaml"): f for f in files("fti.kubeflow.profiles").iterdir() if f.name.endswith(".yaml")
    }
    try:
        text = own[name].read_text(encoding="utf-8") if name in own else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"the resource profile {name} cannot be read: {getattr(error, 'strerror', None) or error}",
            allowed=f"a YAML file, or one of {', '.join(sorted(own))}",
        ) from error
    return read_profile(text, name)


def read_profile(text: str, name: str) -> Profile:
    """The profile of a text; `name` is for messages."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the resource profile {name} is no YAML: {' '.join(str(error).split())}") from error
    parts = parse.mapping(content or {}, name)
    for part in parts:
        parse.require_known(part, _PARTS, name)
    run = parse.mapping(parts.get("run") or {}, f"{name}: run")
    for key in run:
        parse.require_known(key, _RUN, f"{name}: run")
    defaults = parse.mapping(parts.get("defaults") or {}, f"{name}: defaults")
    steps = parse.mapping(parts.get("steps") or {}, f"{name}: steps")
    return Profile(
        name=name,
        defaults=_step(defaults, f"{name}: defaults"),
        steps={step: _merged(defaults, own, f"{name}: steps: {step}") for step, own in steps.items()},
        **{key: seconds(value, f"{name}: run: {key}") for key, value in run.items() if value is not None},
    )


def _merged(defaults: Mapping[str, Any], own: Any, where: str) -> Step:
    return _step({**defaults, **parse.mapping(own or {}, where)}, where)


def _step(values: Mapping[str, Any], where: str) -> Step:
    known = [entry.name for entry in fields(Step)]
    for key in values:
        parse.require_known(key, known, where)
    step = Step(**{k: _READERS[k](v, f"{where}: {k}") for k, v in values.items() if v is not None})
    parse.require_distinct_variables(step.environment, (*step.secrets, *step.config_maps), where)
    return step
