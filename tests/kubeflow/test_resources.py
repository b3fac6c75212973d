"""Resource profiles: what the YAML says is what kfp's own setters would have written, in nested pipelines too."""

import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl, kubernetes
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from fti.common.errors import ConfigError, StorageError
from fti.compilation import COMPONENTS, compile_all, compile_pipeline, compile_pipelines
from fti.kubeflow.profile import Step, profile_named, read_profile
from fti.kubeflow.resources import Compiled, read_compiled, with_resources
from fti.pipelines import PIPELINES, pipeline_named
from tests.cli import steps
from tests.cli.steps import shout

GOLDEN = Path(__file__).parents[1] / "golden" / "gpu" / "pipelines" / "loop.yaml"
MANIFESTS = Path(__file__).parents[2] / "manifests" / "base"
FULL = """
run: {deadline: 1h, ttl: 7d}
defaults:
  cpu: {request: 500m, limit: "2"}
  memory: {request: 1Gi, limit: 4Gi}
  accelerator: {type: nvidia.com/gpu, count: 2}
  shared_memory: 2Gi
  node_selector: {pool: gpu}
  tolerations:
    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    - {key: spot, value: "true", effect: NoExecute, seconds: 60s}
  retries: {count: 2, delay: 30s, factor: 3, longest: 10m}
  timeout: 90m
  caching: false
  environment: {COLOUR: red}
  secrets:
    store: [USER, PASSWORD]
    other: {keys: {some.key: VARIABLE}, optional: true}
  config_maps: {settings: [REGION]}
  image: registry:5000/steps@sha256:0123
  image_pull_policy: Always
  image_pull_secrets: [registry]
  labels: {team: data}
  annotations: {sidecar.istio.io/inject: "false"}
"""


@dsl.pipeline(
    name="fti-set",
    pipeline_config=dsl.PipelineConfig(active_deadline_seconds=3600, ttl_seconds_after_finished=7 * 86400),
)
def by_hand() -> None:  # what FULL says
    """Shouts."""
    task = shout(text="x")
    task.set_cpu_request("500m").set_cpu_limit("2").set_memory_request("1Gi").set_memory_limit("4Gi")
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2).set_caching_options(False)
    task.set_retry(2, backoff_duration="30s", backoff_factor=3, backoff_max_duration="600s")
    task.set_env_variable("COLOUR", "red").set_container_image("registry:5000/steps@sha256:0123")
    kubernetes.use_secret_as_env(task, "store", {"USER": "USER", "PASSWORD": "PASSWORD"})
    kubernetes.use_secret_as_env(task, "other", {"some.key": "VARIABLE"}, optional=True)
    kubernetes.use_config_map_as_env(task, "settings", {"REGION": "REGION"})
    kubernetes.add_node_selector(task, "pool", "gpu")
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.add_toleration(task, key="spot", value="true", effect="NoExecute", toleration_seconds=60)
    kubernetes.set_timeout(task, 5400)
    kubernetes.set_image_pull_policy(task, "Always")
    kubernetes.set_image_pull_secrets(task, ["registry"])
    kubernetes.add_pod_label(task, "team", "data")
    kubernetes.add_pod_annotation(task, "sidecar.istio.io/inject", "false")
    kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", "2Gi")


@dsl.pipeline(name="fti-set")
def plain() -> None:
    """Shouts."""
    shout(text="x")


@cache
def loop_on_gpu() -> Compiled:
    return read_compiled(GOLDEN.read_text())


def documents(path: Path) -> list[dict[str, object]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_a_profile_is_what_kfps_own_setters_write(tmp_path: Path) -> None:
    compiler.Compiler().compile(by_hand, str(tmp_path / "by_hand.yaml"))
    ours = documents(compile_pipeline(plain, tmp_path / "ours.yaml", read_profile(FULL, "full")))
    assert ours == documents(tmp_path / "by_hand.yaml")


def test_the_golden_file_is_what_the_code_compiles_to(tmp_path: Path) -> None:
    (path,) = compile_pipelines(tmp_path, ["loop"], profile_named("gpu"))
    assert path.read_text() == GOLDEN.read_text(), "run `make golden` and look at the difference"


@pytest.mark.parametrize("profile", ["small", "gpu"])
def test_what_comes_along_fits_every_pipeline_and_kfps_own_types(profile: str, tmp_path: Path) -> None:
    for path in compile_pipelines(tmp_path, PIPELINES, profile_named(profile)):
        spec, platform = documents(path)
        ParseDict(spec, PipelineSpec())
        ParseDict(platform, PlatformSpec())
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        containers = {name for name, of in spec["deploymentSpec"]["executors"].items() if "container" in of}
        assert set(executors) == containers, "steps of nested pipelines too"
        for config in executors.values():
            ParseDict(config, KubernetesExecutorConfig())


@pytest.mark.parametrize("profile", ["small", "gpu"])
def test_what_comes_along_names_what_the_manifests_make(profile: str) -> None:
    def keys(name: str) -> set[str]:
        lines = (MANIFESTS / f"{name}.env").read_text().splitlines()
        return {line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")}

    defaults = profile_named(profile).defaults
    named = {of.name: set(of.variables) for of in (*defaults.config_maps, *defaults.secrets)}
    assert named.pop("fti-settings") == keys("settings")
    assert named.pop("fti-object-store") == keys("object-store")
    assert named.pop("fti-feature-store") <= keys("feature-store")
    assert not named


def test_the_candidate_gets_the_gpu_and_its_baseline_none() -> None:
    spec, platform = documents(GOLDEN)
    executors = spec["deploymentSpec"]["executors"]
    with_gpu = {name for name, of in executors.items() if "accelerator" in of["container"].get("resources", {})}
    tasks = spec["components"]["comp-fti-training"]["dag"]["tasks"].values()
    of_task = {task["taskInfo"]["name"]: task["componentRef"]["name"] for task in tasks}
    assert len(with_gpu) == 1
    assert {f"comp-{name.removeprefix('exec-')}" for name in with_gpu} == set(of_task.values()) - {
        component for task, component in of_task.items() if task not in ("train", "train-2")
    }
    require = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-require"]
    assert "secretAsEnv" not in require, "it needs none"


def test_only_named_steps_differ_and_what_was_there_stays() -> None:
    compiled = loop_on_gpu()
    profile = read_profile("steps: {push: {memory: 1Gi}}", "p")
    given = with_resources(compiled, profile)
    before, after = (of.spec["deploymentSpec"]["executors"] for of in (compiled, given))
    limits = [of["exec-push"]["container"]["resources"]["resourceMemoryLimit"] for of in (before, after)]
    assert limits == ["4Gi", "1Gi"]
    assert before["exec-ingest"] == after["exec-ingest"]
    assert given.platform == compiled.platform


def test_an_empty_profile_changes_nothing(tmp_path: Path) -> None:
    plain_text = compile_pipeline(steps.shouting, tmp_path / "a.yaml").read_text()
    assert compile_pipeline(steps.shouting, tmp_path / "b.yaml", read_profile("", "empty")).read_text() == plain_text


def test_tasks_that_share_an_executor_cannot_differ(tmp_path: Path) -> None:
    @dsl.pipeline(name="twice")
    def twice() -> None:
        shout(text="a")
        shout(text="b").set_display_name("louder")

    text = compile_pipeline(twice, tmp_path / "x.yaml").read_text()
    compiled = read_compiled(text.replace("name: comp-shout-2", "name: comp-shout"))  # as other compilers may do
    with pytest.raises(ConfigError, match="shares its executor.*Name the component, shout"):
        with_resources(compiled, read_profile("steps: {louder: {cpu: 2}}", "p"))
    with_resources(compiled, read_profile("steps: {shout: {cpu: 2}}", "p"))


def test_what_a_step_says_takes_the_defaults_place_and_null_leaves_it_out() -> None:
    profile = read_profile("defaults: {timeout: 1h, cpu: 1}\nsteps: {train: {timeout: null, cpu: {limit: 2}}}", "p")
    assert (profile.steps["train"].timeout, profile.steps["train"].cpu) == (0, {"limit": "2"})
    assert profile.defaults.timeout == 3600


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "p is .*a map"),
        ("a: [", "p is no YAML"),
        ("default: {}", "p has no 'default'. Allowed: run, defaults, steps. Perhaps defaults is meant"),
        ("run: {dead_line: 1h}", "p: run has no 'dead_line'.*Perhaps deadline"),
        ("run: {deadline: 1}", "p: run: deadline is 1. Allowed: a span of time"),
        ("run: {ttl: 99999d}", "p: run: ttl is '99999d'"),
        ("defaults: {memory: {request: 1Gb}}", "p: defaults: memory: request is '1Gb'. Allowed: an amount"),
        ("defaults: {memory: 0}", "memory: request is 0"),
        ("defaults: {cpu: {request: 3, limit: 2}}", "request 3 is above limit 2"),
        ("defaults: {cpu: {max: 3}}", "cpu has no 'max'. Allowed: request, limit"),
        ("defaults: {gpu: 1}", "p: defaults has no 'gpu'"),
        ("defaults: {accelerator: {count: 1}}", "accelerator: type is None"),
        ("defaults: {accelerator: {type: a/b, count: 0}}", "count is 0"),
        ("defaults: {tolerations: {key: a}}", "tolerations is .*a list of maps"),
        ("defaults: {tolerations: [{key: a, effect: Never}]}", r"tolerations\[0\]: effect is 'Never'"),
        ("defaults: {tolerations: [{key: a, operator: Exists, value: b}]}", "Exists without a value"),
        ("defaults: {retries: {count: 99}}", "retries: count is 99. Allowed: 0 to 20"),
        ("defaults: {retries: {count: 1, factor: 1.5}}", "factor is 1.5. Allowed: a whole number"),
        ("defaults: {caching: sometimes}", "caching is 'sometimes'. Allowed: true or false"),
        ("defaults: {environment: {N: 1}}", "environment: N is 1. Allowed: a text"),
        ("defaults: {environment: {DB_PASSWORD: x}}", "DB_PASSWORD looks like a secret.*under `secrets`"),
        ("defaults: {environment: {DB: 'postgres://u:x@db'}}", "DB looks like a secret"),
        ("defaults: {secrets: {Store: [A]}}", "secrets: Store is 'Store'"),
        ("defaults: {secrets: {store: []}}", "secrets: store is .*a list of keys"),
        ("defaults: {secrets: {store: {k: 1a}}}", "store: k is '1a'"),
        ("defaults: {secrets: {a: [X], b: [X]}}", "X comes from two places"),
        ("defaults: {image_pull_policy: Maybe}", "image_pull_policy is 'Maybe'. Allowed: Always"),
        ("defaults: {labels: {team: a b}}", "labels: team is 'a b'"),
        ("defaults: {annotations: {x: true}}", "annotations: x is True"),
        ("steps: {train: 1}", "p: steps: train is 1"),
    ],
)
def test_a_mistake_is_explained(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_profile(text, "p")


def test_a_step_that_nobody_has(tmp_path: Path) -> None:
    profile = read_profile("steps: {trian: {cpu: 1}}", "p")
    with pytest.raises(ConfigError, match="p: steps has no 'trian'.*Perhaps train is meant"):
        compile_pipeline(pipeline_named("loop"), tmp_path / "x.yaml", profile)
    assert not (tmp_path / "x.yaml").exists()


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(StorageError, match="No such file.*one of gpu, small"):
        profile_named("large")


def test_no_secret_stands_in_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment holds while compiling: its values must not appear, nor texts that look like secrets."""
    held = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-EXAMPLEKEY",
        "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEXAMPLE",
        "FTI_REDIS": "redis:6379,password=hunter2-redis",
        "FTI_POSTGRES_USER": "postgres-user-x",
        "FTI_POSTGRES_PASSWORD": "hunter2-postgres",
        "FTI_KFP_TOKEN": "T0KEN-of-mine",
        "FTI_KFP_COOKIE": "session=C00KIE-of-mine",
    }
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    for profile in ("small", "gpu"):
        compile_pipelines(tmp_path / profile, PIPELINES, profile_named(profile))
    compile_all(tmp_path / "plain")
    written = {path: path.read_text() for path in tmp_path.rglob("*.yaml")}
    assert len(written) == 3 * len(PIPELINES) + len(COMPONENTS)
    looks_secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|eyJ[\w-]+\.[\w-]+\.|://[^/\s\"']*:[^/\s\"']*@|password=[^,\s$]"
    )
    for path, text in written.items():
        assert not any(value in text for value in held.values()), path
        assert not looks_secret.search(text), path


@pytest.mark.parametrize("profile", ["small", "gpu"])
def test_a_profile_given_twice_is_given_once(profile: str) -> None:
    once = with_resources(loop_on_gpu(), profile_named(profile))
    assert with_resources(once, profile_named(profile)) == once


keys = st.sampled_from(["run", "defaults", "steps", "deadline", "train", *(field.name for field in fields(Step))])
keys |= st.sampled_from(["request", "limit", "type", "count", "keys", "optional", "key", "effect", "seconds", "x"])
leaves = st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | st.text("aZ0-._/ ", max_size=4)
leaves |= st.sampled_from(["1h", "2Gi", "Equal", "Exists", "NoSchedule", "Always", "nvidia.com/gpu"])
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@given(st.dictionaries(st.sampled_from(["run", "defaults", "steps"]), anything) | anything)
def test_whatever_a_file_holds_is_a_profile_or_explained(content: object) -> None:
    try:
        profile = read_profile(yaml.safe_dump(content), "p")
    except ConfigError as error:
        assert str(error).startswith(("p", "the resource profile p"))
    else:
        with_resources(loop_on_gpu(), profile)


def test_the_profile_of_the_docs_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "kubeflow.md").read_text()
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("run:"))
    profile = read_profile(block, "docs")
    assert set(profile.steps) == {"require", "train", "train baseline"}
    with_resources(loop_on_gpu(), profile)
    asked = {field.name for field in fields(Step)}
    assert {name for name in asked if name not in text} == set(), "each entry is told of"
