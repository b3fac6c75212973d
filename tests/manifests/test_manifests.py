"""The manifests: rendered, valid, true to one another and to the code that they run."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fti.common.inference_service import MODEL_FORMAT, Revision, Service, render
from fti.common.inference_service.single import SERVICE_ACCOUNT
from fti.common.kubernetes_api import merge_patch
from tests.manifests.rendered import ELSEWHERE, OVERLAYS, ROOT, Object, named, of_kind, overlay, pod_specs, rendered
from tests.manifests.schemas import validator
from tests.push.api_server import merged

CODE = ROOT.parent / "components"
CUSTOM = {  # kinds with schemas in shared/crds
    "ServingRuntime": ("serving.kserve.io_servingruntimes", "v1alpha1"),
    "Gateway": ("gateway.networking.k8s.io_gateways", "v1"),
    "HTTPRoute": ("gateway.networking.k8s.io_httproutes", "v1"),
}
MONITORS = ("ServiceMonitor", "PodDisruptionBudget")
UNCHECKED = {"ServiceMonitor", "AuthorizationPolicy", "ExternalSecret"}  # no schema of theirs is at hand
KSERVES = {"serving.kserve.io/inferenceservice": "late", "component": "predictor"}  # of every model's pod and Service


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return overlay(request.param)


def pushed(objects: list[Object], service: Service) -> list[Object]:
    """The labels of the pods and Services that KServe makes of a service: its runtime's, its predictors', its own."""
    runtime = named(objects, "ServingRuntime", "fti-predictor")["spec"]["labels"]
    manifest = render(service)
    predictors = [each["predictor"] for each in (manifest["spec"], *manifest["spec"].get("canary", []))]
    return [{**runtime, **each["labels"], **KSERVES} for each in predictors]


def containers(spec: Object) -> list[Object]:
    return [*(spec.get("initContainers") or []), *spec["containers"]]


@pytest.mark.parametrize("name", [*OVERLAYS, *ELSEWHERE, "cluster"])
def test_every_object_is_valid(name: str) -> None:
    import kubernetes_validate

    for each in rendered(ROOT / "cluster") if name == "cluster" else overlay(name):
        if each["kind"] in CUSTOM:
            check = validator(*CUSTOM[each["kind"]])
            if check:
                check.validate(each)
        elif each["kind"] not in UNCHECKED:
            kubernetes_validate.validate(each, "1.31", strict=True)


def istio() -> Object:
    """The policy for a mesh, which no overlay takes by itself."""
    policy: Object = yaml.safe_load((ROOT / "components" / "istio" / "authorization-policy.yaml").read_text())
    return policy


def test_the_kinds_without_a_schema_have_the_shape_that_their_projects_document() -> None:
    monitor = named(overlay("minio"), "ServiceMonitor", "fti-predictors")["spec"]
    assert monitor.keys() == {"selector", "endpoints"} and monitor["endpoints"][0]["path"] == "/metrics"
    policy = istio()["spec"]
    assert policy.keys() == {"selector", "action", "rules"} and policy["action"] == "ALLOW"
    for rule in policy["rules"]:
        assert rule["to"] and all(path != "*" for to in rule["to"] for path in to["operation"]["paths"])


def test_all_lies_in_the_namespace_and_pods_there_are_restricted(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for each in objects if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in others} == {namespace["metadata"]["name"]}


def bound_accounts(objects: list[Object]) -> dict[str, set[tuple[str, str]]]:
    """RoleBinding -> (namespace, name) of the accounts that it binds."""
    return {
        each["metadata"]["name"]: {(subject.get("namespace", ""), subject["name"]) for subject in each["subjects"]}
        for each in of_kind(objects, "RoleBinding")
    }


def test_accounts_are_bound_in_their_namespace(objects: list[Object]) -> None:
    """An API server refuses a binding of an account without a namespace; its published schema does not say so."""
    bound = bound_accounts(objects)
    assert bound["fti-deployer"] == {("fti", "fti-pipelines"), ("fti", "default-editor")}
    assert bound["fti-steps"] == {("fti", "fti-pipelines")}


@pytest.mark.parametrize(("name", "namespace"), ELSEWHERE.items())
def test_a_namespace_that_is_there_already_is_left_alone(name: str, namespace: str) -> None:
    """What is Kubeflow's own is never applied: the namespace, and the account as which it runs steps."""
    objects, account = overlay(name), {"profile": "default-editor", "single-user": "pipeline-runner"}[name]
    assert not of_kind(objects, "Namespace")
    assert {each["metadata"]["namespace"] for each in objects} == {namespace}
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    assert accounts == {"fti-pipelines", "fti-predictor", "fti-stores"}
    assert bound_accounts(objects)["fti-deployer"] == {(namespace, "fti-pipelines"), (namespace, account)}
    same = {(each["kind"], each["metadata"]["name"]) for each in overlay("seaweedfs")} - {("Namespace", "fti")}
    assert {(each["kind"], each["metadata"]["name"]) for each in objects} == same


def with_component(folder: Path, base: str, component: str, *, last: bool) -> list[Object]:
    """An overlay as somebody makes it who adds a component to a copy."""
    import shutil

    shutil.copytree(ROOT, folder / "manifests")
    file = folder / "manifests" / "overlays" / base / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    kustomization["components"].insert(99 if last else 0, f"../../components/{component}")
    file.write_text(yaml.safe_dump(kustomization))
    return rendered(file.parent)


@pytest.mark.parametrize(
    ("base", "principals"),
    [
        ("minio", ["cluster.local/ns/fti/sa/fti-pipelines", "cluster.local/ns/fti/sa/default-editor"]),
        ("profile", ["cluster.local/ns/team/sa/fti-pipelines", "cluster.local/ns/team/sa/default-editor"]),
        ("single-user", ["cluster.local/ns/kubeflow/sa/fti-pipelines", "cluster.local/ns/kubeflow/sa/pipeline-runner"]),
    ],
)
def test_in_a_mesh_the_accounts_of_steps_may_try_a_model(tmp_path: Path, base: str, principals: list[str]) -> None:
    """The policy's principals are the accounts that rights.yaml binds: push runs as one of them."""
    objects = with_component(tmp_path, base, "istio", last=False)
    rules = named(objects, "AuthorizationPolicy", "fti-predictors")["spec"]["rules"]
    rule, router = (each for each in rules if "principals" in each["from"][0]["source"])
    assert rule["from"][0]["source"]["principals"] == principals
    assert {tuple(each.split("/")[2::2]) for each in principals} == bound_accounts(objects)["fti-deployer"]
    paths = rule["to"][0]["operation"]["paths"]
    assert any(fnmatch("/v1/models/late:predict", path) for path in paths)
    namespace = named(objects, "AuthorizationPolicy", "fti-predictors")["metadata"]["namespace"]
    assert router["from"][0]["source"]["principals"] == [f"cluster.local/ns/{namespace}/sa/default"]  # of a graph
    assert router["to"][0]["operation"] == {"methods": ["POST"], "paths": ["/v1/models/*"]}
    istiod = {"protocol": "TCP", "port": 15012}  # without it a sidecar never becomes ready
    for name in ("predictors-to-istiod", "steps-to-istiod"):
        assert named(objects, "NetworkPolicy", name)["spec"]["egress"][0]["ports"] == [istiod]


def test_every_pod_meets_pod_security_restricted(objects: list[Object]) -> None:
    for name, spec in pod_specs(objects).items():
        of_pod = spec.get("securityContext") or {}
        assert not spec.get("hostNetwork") and not spec.get("hostPID") and not spec.get("hostIPC"), name
        assert not [v for v in spec.get("volumes") or [] if "hostPath" in v], name
        for container in containers(spec):
            own = container["securityContext"]
            assert {**of_pod, **own}["runAsNonRoot"] is True and {**of_pod, **own}["runAsUser"] > 0, name
            assert {**of_pod, **own}["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert own["allowPrivilegeEscalation"] is False and not own.get("privileged"), name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own["readOnlyRootFilesystem"] is True, name
            for bound in ("requests", "limits"):
                assert container["resources"][bound].keys() >= {"cpu", "memory"}, name
            assert not any("hostPort" in port for port in container.get("ports") or []), name


def test_images_have_a_version_that_a_digest_can_replace(objects: list[Object]) -> None:
    from importlib.metadata import version

    for name, spec in pod_specs(objects).items():
        for container in containers(spec):
            tag = re.fullmatch(r"[\w./-]+:([\w.-]+)", container["image"])
            assert tag and tag[1] != "latest", (name, container["image"])
            if container["image"].startswith("kfp-fti/"):
                assert tag[1] == version("kfp-fti")


def test_whatever_a_pod_refers_to_is_there(objects: list[Object]) -> None:
    keys = {}
    for kind, kept in (("ConfigMap", "data"), ("Secret", "data")):
        for each in of_kind(objects, kind):
            keys[kind, each["metadata"]["name"]] = set(each.get(kept) or {})
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    for name, spec in pod_specs(objects).items():
        if not name.startswith("ServingRuntime"):
            assert spec["serviceAccountName"] in accounts, name
        volumes = {each["name"] for each in (spec.get("volumes") or [])}
        if name.startswith("StatefulSet"):
            claims = named(objects, "StatefulSet", name.split("/")[1])["spec"]["volumeClaimTemplates"]
            volumes |= {each["metadata"]["name"] for each in claims}
        for container in containers(spec):
            assert {mount["name"] for mount in container.get("volumeMounts") or []} <= volumes, name
            for source in container.get("envFrom") or []:
                for kind, ref in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                    assert ref not in source or (kind, source[ref]["name"]) in keys, name
            for variable in container.get("env") or []:
                ref = (variable.get("valueFrom") or {}).get("secretKeyRef")
                assert not ref or ref["key"] in keys["Secret", ref["name"]], (name, ref)


def test_services_point_to_ports_of_pods(objects: list[Object]) -> None:
    specs = pod_specs(objects)
    for service in of_kind(objects, "Service"):
        selector = service["spec"]["selector"]
        (pods,) = (spec for spec in specs.values() if selector.items() <= spec["labels"].items())
        ports = {port["name"]: port["containerPort"] for c in pods["containers"] for port in c["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for each in of_kind(objects, "StatefulSet"):
        assert named(objects, "Service", each["spec"]["serviceName"])
        assert each["spec"]["selector"]["matchLabels"].items() <= each["spec"]["template"]["metadata"]["labels"].items()


def test_addresses_in_the_settings_are_services_with_that_port(objects: list[Object]) -> None:
    settings = named(objects, "ConfigMap", "fti-settings")["data"]
    services = {each["metadata"]["name"]: each["spec"]["ports"][0]["port"] for each in of_kind(objects, "Service")}
    secret = named(objects, "Secret", "fti-feature-store")
    from base64 import b64decode

    redis = b64decode(secret["data"]["FTI_REDIS"]).decode()
    store = settings["AWS_ENDPOINT_URL"]
    addresses = [settings["FTI_POSTGRES"].split("/")[0], redis.split(",")[0]]
    if store and "example.com" not in store:
        addresses.append(store.split("//")[1])
        annotations = named(objects, "Secret", "fti-object-store")["metadata"]["annotations"]
        assert annotations["serving.kserve.io/s3-endpoint"] == store.split("//")[1]
    for address in addresses:
        host, _, port = address.partition(":")
        assert services[host] == int(port)
    # the same password on both sides
    assert redis.split("password=")[1] == b64decode(secret["data"]["REDIS_PASSWORD"]).decode()
    assert settings["FTI_POSTGRES"].split("/")[1] == "feast"


def test_every_variable_is_one_that_the_code_reads_and_settings_can_be_read() -> None:
    from base64 import b64decode

    from fti.common.settings import Settings

    texts = [path.read_text() for path in (ROOT.parent / "feature_repo").rglob("*.yaml")]
    texts += [path.read_text() for path in CODE.rglob("*.py")]
    known = set(re.findall(r"\b(?:FTI|AWS)_[A-Z_]+\b", "\n".join(texts)))
    for name in OVERLAYS:
        objects = overlay(name)
        environ = dict(named(objects, "ConfigMap", "fti-settings")["data"])
        for secret in of_kind(objects, "Secret"):
            environ |= {key: b64decode(value).decode() for key, value in secret["data"].items()}
        assert set(environ) - {"REDIS_PASSWORD"} <= known
        settings = Settings.from_env({**environ, "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
        assert settings.serving == "cluster" and settings.models_uri.startswith(("s3://", "gs://"))


def test_the_variables_of_the_server_profile_are_all_given() -> None:
    profile = (ROOT.parent / "feature_repo" / "feature_store.server.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)\}", profile))
    objects = overlay("minio")
    given = set(named(objects, "ConfigMap", "fti-settings")["data"])
    given |= set(named(objects, "Secret", "fti-feature-store")["data"])
    assert asked <= given


def test_the_resource_profiles_of_pipelines_name_what_is_there() -> None:
    objects = overlay("minio")
    there = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(objects, "ConfigMap", "Secret")}
    for file in (CODE / "kubeflow" / "profiles").glob("*.yaml"):
        defaults = yaml.safe_load(file.read_text())["defaults"]
        for source in ("config_maps", "secrets"):
            for name, of in (defaults.get(source) or {}).items():
                keys = of["keys"] if isinstance(of, dict) else of
                assert set(keys) <= there[name], (file.name, name)


def test_what_push_writes_fits_the_runtime(objects: list[Object]) -> None:
    from fti.serve.predictor import _parser

    service = Service("late", Revision("a" * 64, "s3://fti/models/late/a", "package://fti.feature_repo/"))
    model = render(service)["spec"]["predictor"]["model"]
    automatic = []
    for runtime in of_kind(objects, "ServingRuntime"):
        spec = runtime["spec"]
        (served,) = (each for each in spec["supportedModelFormats"] if each["name"] == MODEL_FORMAT)
        automatic += [runtime["metadata"]["name"]] * served["autoSelect"]
        assert model["modelFormat"]["name"] == served["name"] and model["protocolVersion"] in spec["protocolVersions"]
        (container,) = spec["containers"]
        assert container["name"] == "kserve-container"  # KServe finds it by this name
        args = [arg.replace("{{.Name}}", "late") for arg in container["args"] + model["args"]]
        parsed, unknown = _parser().parse_known_args(args)
        assert not unknown
        assert (parsed.name, parsed.package, parsed.http_port) == ("late", "/mnt/models", 8080)
        assert parsed.feature_repo == "package://fti.feature_repo/"
        ports = [port["containerPort"] for port in container["ports"]]
        assert ports[0] == parsed.http_port and set(ports) <= {parsed.http_port, parsed.grpc_port}
        assert container["command"] == ["python3", "-m", "fti.serve.predictor"]  # as the image does
    assert automatic == ["fti-predictor"]
    assert named(objects, "ServiceAccount", SERVICE_ACCOUNT)["secrets"] == [{"name": "fti-object-store"}]


def test_the_role_holds_the_rights_that_the_code_uses_and_no_more(objects: list[Object]) -> None:
    """The requests are those of the tests of push: every (verb, resource) that they make is granted."""
    from fti.doctor.rights import RIGHTS

    granted = {
        (verb, f"{resource}.{group}" if group else resource)
        for rule in named(objects, "Role", "fti-deployer")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == RIGHTS


def test_whoever_asks_the_cluster_may_read_how_kserve_splits() -> None:
    from fti.doctor.rights import KSERVE_RIGHTS

    objects = rendered(ROOT / "cluster")
    rules = named(objects, "Role", "fti-kserve-reader")["rules"]
    found = {(verb, rule["resources"][0], rule["apiGroups"][0]) for rule in rules for verb in rule["verbs"]}
    assert rules[0]["resourceNames"] == ["inferenceservice-config"]
    assert {(verb, f"{kind}.{group}" if group else f"{kind}/{rules[0]['resourceNames'][0]}")
            for verb, kind, group in found} == KSERVE_RIGHTS  # fmt: skip
    binding = named(objects, "RoleBinding", "fti-kserve-reader")
    assert binding["metadata"]["namespace"] == "kserve"
    readers = bound_accounts(objects)["fti-kserve-reader"]
    assert readers == set().union(*(bound_accounts(overlay(name))["fti-deployer"] for name in [*OVERLAYS, *ELSEWHERE]))


@pytest.mark.parametrize("folder", ["base", "cluster"])
def test_each_rule_says_who_needs_it(folder: str) -> None:
    lines = (ROOT / folder / "rights.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("- apiGroups"):
            assert lines[number - 1].strip().startswith("#")


def test_what_is_denied_by_default_is_opened_for_each_connection(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    denied = [each["spec"] for each in policies if each["spec"]["policyTypes"] == ["Ingress", "Egress"]]
    step = {"pipelines.kubeflow.org/v2_component": "true"}
    (predictor,) = pushed(objects, Service("late", Revision("a" * 64, "s3://m/a")))
    stores = [s for key, s in pod_specs(objects).items() if key.startswith("StatefulSet")]
    for labels in (step, predictor, *(store["labels"] for store in stores)):
        assert any(selects(each["podSelector"], labels) for each in denied), labels
    for others in ({"app": "notebook"}, KSERVES):  # a notebook and a model of somebody else, in the same namespace
        assert not any(selects(each["spec"]["podSelector"], others) for each in policies)
    sources = named(objects, "NetworkPolicy", "predictors-in")["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
    ways = named(objects, "NetworkPolicy", "steps-out")["spec"]["egress"][-1]["to"][0]["namespaceSelector"]
    (gateways,), (reached,) = (each["matchExpressions"] for each in (sources, ways))
    assert set(reached["values"]) <= set(gateways["values"])  # by which push tries a model, such as Kourier
    for store in stores:
        port = store["containers"][0]["ports"][0]["containerPort"]
        for client in (step, predictor):
            assert any(opens(p, "egress", client, "to", store["labels"], port) for p in policies), (port, client)
            assert any(opens(p, "ingress", store["labels"], "from", client, port) for p in policies), (port, client)
        assert not any(opens(p, "ingress", store["labels"], "from", {"app": "stranger"}, port) for p in policies)


def opens(policy: Object, way: str, subject: Object, peer_key: str, peer: Object, port: int) -> bool:
    if not selects(policy["spec"]["podSelector"], subject):
        return False
    for rule in policy["spec"].get(way) or []:
        peers = [each["podSelector"] for each in rule.get(peer_key) or [] if "podSelector" in each]
        ports = [each["port"] for each in rule.get("ports") or []]
        if port in ports and any(selects(each, peer) for each in peers):
            return True
    return False


def selects(selector: Object, labels: Object) -> bool:
    for each in selector.get("matchExpressions") or []:
        if each["key"] not in labels or (each["operator"] == "In" and labels[each["key"]] not in each["values"]):
            return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def test_monitors_and_budgets_select_what_kserve_makes_of_ours(objects: list[Object]) -> None:
    models = (Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b"))
    selectors = [named(objects, kind, "fti-predictors")["spec"]["selector"] for kind in MONITORS]
    selectors.append(istio()["spec"]["selector"])
    for selector in selectors:
        assert all(selects(selector, labels) for labels in pushed(objects, Service("late", *models, 20)))
        assert not selects(selector, KSERVES)  # another's model


def test_the_dashboard_asks_only_for_metrics_and_labels_that_exist() -> None:
    from prometheus_client import REGISTRY

    import fti.serve.observe.metrics  # noqa: F401

    source = (CODE / "serve" / "observe" / "metrics.py").read_text()
    names = {family.name for family in REGISTRY.collect() if family.name.startswith("fti_")}
    known = names | {f"{name}_{end}" for name in names for end in ("total", "bucket", "sum", "count")}
    board = json.loads((ROOT / "components" / "monitoring" / "fti.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    keda = yaml.safe_load((ROOT / "autoscaling" / "keda.yaml").read_text())
    queries.append(keda["spec"]["predictor"]["autoScaling"]["metrics"][0]["external"]["metric"]["query"])
    assert len(board["panels"]) >= 8
    for query in queries:
        used = set(re.findall(r"\bfti_\w+", query))
        assert used and used <= known, query
        for label in re.findall(r"[{,]\s*(\w+)\s*[=!]", query):
            assert label in {"namespace"} or f'"{label}"' in source, (label, query)


@pytest.mark.parametrize("name", ["hpa", "keda", "knative"])
def test_autoscaling_patches_fit_a_pushed_service(name: str) -> None:
    check = validator("serving.kserve.io_inferenceservices", "v1beta1")
    if not check:
        pytest.skip("KServe's CRDs lie outside of the repository")
    patch = yaml.safe_load((ROOT / "autoscaling" / f"{name}.yaml").read_text())
    pushed = render(Service("late", Revision("a" * 64, "s3://m/a")))
    scaled = merged(pushed, patch)
    check.validate(scaled)
    later = render(Service("late", Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b"), 20), scaled)
    check.validate(later)
    predictor: dict[str, Any] = patch["spec"]["predictor"]
    assert later["spec"]["predictor"].items() >= predictor.items()
    assert not later["spec"]["canary"][0]["predictor"].keys() & predictor.keys()
    assert merged(scaled, merge_patch(scaled, later)) == later


def test_the_route_to_variants_names_what_kserve_makes() -> None:
    route = yaml.safe_load((ROOT / "cluster" / "variants.yaml").read_text())
    check = validator(*CUSTOM["HTTPRoute"])
    if check:
        check.validate(route)
    service = Service("late-arrival", Revision("a" * 64, "s3://m/a"), Revision("b" * 64, "s3://m/b"), 20)
    canary = render(service)["spec"]["canary"][0]["predictor"]["name"]
    backends = [rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"]]
    assert backends == [f"late-arrival-{canary}-predictor", "late-arrival-predictor"]
    (gateway,) = of_kind(rendered(ROOT / "cluster"), "Gateway")
    assert route["spec"]["parentRefs"][0]["name"] == gateway["metadata"]["name"]


def test_external_secrets_give_the_same_keys_in_place_of_the_placeholders(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT, tmp_path / "manifests")
    file = tmp_path / "manifests" / "overlays" / "minio" / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    del kustomization["patches"]  # of the secret that is gone
    kustomization["components"].append("../../components/external-secrets")
    file.write_text(yaml.safe_dump(kustomization))
    objects = rendered(file.parent)
    assert not of_kind(objects, "Secret")
    for name in ("fti-object-store", "fti-feature-store"):
        external = named(objects, "ExternalSecret", name)["spec"]
        template = (external["target"].get("template") or {}).get("data")
        keys = set(template or (each["secretKey"] for each in external["data"]))
        assert keys == set(named(overlay("minio"), "Secret", name)["data"])


def test_a_wrong_field_is_found() -> None:
    """The checks themselves can fail."""
    import copy

    import kubernetes_validate

    stateful = copy.deepcopy(of_kind(overlay("minio"), "StatefulSet")[0])
    stateful["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful, "1.31", strict=True)
    check = validator("serving.kserve.io_servingruntimes", "v1alpha1")
    if check:
        runtime = copy.deepcopy(named(overlay("minio"), "ServingRuntime", "fti-predictor"))
        runtime["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(jsonschema.ValidationError):
            check.validate(runtime)


def test_knative_mode_takes_one_port_and_is_measured_by_its_pods(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "minio", "knative", last=True)
    assert named(objects, "ConfigMap", "fti-settings")["data"]["FTI_SERVING"] == "knative"
    for name in ("fti-predictor", "fti-predictor-gpu"):
        (container,) = named(objects, "ServingRuntime", name)["spec"]["containers"]
        assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    assert not of_kind(objects, "ServiceMonitor")
    monitor = named(objects, "PodMonitor", "fti-predictors")["spec"]
    (labels,) = pushed(objects, Service("late", Revision("a" * 64, "s3://m/a")))
    assert selects(monitor["selector"], labels) and not selects(monitor["selector"], KSERVES)
    assert monitor["podMetricsEndpoints"][0]["portNumber"] == 8080
