"""Who asks, and where: token, cookie, a ServiceAccount's token, certificates; and secrets that stay secret."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fti.common.errors import ConfigError, PipelinesError
from fti.kubeflow.api import Api, connect
from fti.kubeflow.connection import Connection
from fti.kubeflow.pipelines import upload
from fti.kubeflow.refusals import UnreachableError, UnsureError, checked
from tests.kubeflow.standin import Kubeflow, kubeflow
from tests.object_store import free_ports


def connection(cluster: Kubeflow, **environ: str) -> Connection:
    return Connection.from_env({"FTI_KFP_URL": cluster.url, **environ})


def healthy(found: Connection) -> bool:
    with connect(found):
        return True


def test_a_token_and_a_cookie() -> None:
    with kubeflow(token="T0KEN") as cluster:
        assert healthy(connection(cluster, FTI_KFP_TOKEN="T0KEN"))
    with kubeflow(cookie="authservice_session=C00KIE") as cluster:
        assert healthy(connection(cluster, FTI_KFP_COOKIE="authservice_session=C00KIE"))


def test_a_service_accounts_token_is_read_anew_for_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with kubeflow(token="first") as cluster, connect(connection(cluster, FTI_KFP_TOKEN_FILE=str(file))) as api:
        cluster.token = "second"  # the kubelet replaces it while it is in use
        with pytest.raises(PipelinesError, match="401"):
            api.get("/healthz")
        file.write_text("second\n")
        api.get("/healthz")


@pytest.mark.parametrize("asked", [{}, {"FTI_KFP_TOKEN": "S3CRET"}, {"FTI_KFP_COOKIE": "session=S3CRET"}])
@pytest.mark.parametrize("wanted", [{"token": "T0KEN"}, {"cookie": "session=C00KIE"}])
def test_who_is_not_known_is_told_so_and_no_secret_is_shown(wanted: dict[str, str], asked: dict[str, str]) -> None:
    """Proxies send one to a sign-in page; the server itself says 401, and repeats what it was sent."""
    with kubeflow(**wanted) as cluster:
        found = connection(cluster, **asked)
        with pytest.raises(PipelinesError, match=r"does not know who asks \(401\).*FTI_KFP_TOKEN") as caught:
            healthy(found)
    assert "S3CRET" not in f"{caught.value} {found!r}"


def test_what_a_server_repeats_is_masked() -> None:
    found = Connection("http://kfp", "http://kfp", token="T0KEN", cookie="session=C00KIE; path=/")
    assert found.without_secrets("got T0KEN and session=C00KIE; path=/ or C00KIE") == "got *** and *** or ***"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "FTI_KFP_URL is not set"),
        ({"FTI_KFP_URL": "kubeflow.example.com"}, "FTI_KFP_URL is no address"),
        ({"FTI_KFP_URL": "https://user:S3CRET@kubeflow"}, "without user and password"),
        ({"FTI_KFP_URL": "https://kubeflow/_/pipeline/?ns=a#/runs"}, "without what a browser puts behind #"),
        ({"FTI_KFP_URL": "http://x", "FTI_KFP_CA": "/nowhere.pem"}, "FTI_KFP_CA is /nowhere.pem"),
        ({"FTI_KFP_URL": "http://x", "FTI_KFP_TOKEN_FILE": "/nowhere"}, "FTI_KFP_TOKEN_FILE is /nowhere"),
    ],
)
def test_settings_that_cannot_be_used(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Connection.from_env(environ)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize("secret", [{"FTI_KFP_TOKEN": "S3CRÈT"}, {"FTI_KFP_COOKIE": "session=S3CRET\nx"}])
def test_secrets_that_http_cannot_send(cluster: Kubeflow, secret: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="holds a letter that HTTP cannot send") as caught:
        healthy(connection(cluster, **secret))
    assert "S3C" not in str(caught.value)


def test_behind_the_gateways_path(cluster: Kubeflow, shouting: str) -> None:
    with connect(Connection.from_env({"FTI_KFP_URL": f"{cluster.url}/pipeline/"})) as api:
        assert upload(api, shouting).link.startswith(f"{cluster.url}/pipeline/#/pipelines/details/")


def test_links_into_the_dashboard() -> None:
    environ = {"FTI_KFP_URL": "https://kf/pipeline", "FTI_KFP_UI_URL": "https://kf/_/pipeline/?ns=team"}
    link = Connection.from_env(environ).link("runs", "details", "1")
    assert link == "https://kf/_/pipeline/?ns=team#/runs/details/1"


def test_in_a_pod_the_address_is_known() -> None:
    assert Connection.from_env({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).url == "http://ml-pipeline.kubeflow:8888"


def test_namespaces_count_where_there_are_many_users(cluster: Kubeflow) -> None:
    cluster.many_users = True
    with pytest.raises(ConfigError, match="FTI_KFP_NAMESPACE"):
        healthy(connection(cluster))
    with connect(connection(cluster, FTI_KFP_NAMESPACE="team-a")) as api:
        assert api.connection.namespace == "team-a"
    cluster.many_users = False
    with connect(connection(cluster, FTI_KFP_NAMESPACE="team-a")) as api:
        assert api.connection.namespace == ""


def test_nobody_answers() -> None:
    (port,) = free_ports(1)
    with (
        Api(Connection(f"http://127.0.0.1:{port}", ""), tries=2, pause=0.01) as api,
        pytest.raises(UnreachableError, match=r"cannot be reached: .*refused.*Check FTI_KFP_URL"),
    ):
        api.get("/healthz")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `localhost` that signs itself, and its key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "ca.pem", folder / "key.pem"


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Kubeflow]:
    with kubeflow(certificate) as standin:
        yield standin


def test_a_ca_of_ones_own(secure: Kubeflow, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    assert healthy(connection(secure, FTI_KFP_CA=str(certificate[0])))
    with pytest.raises(UnreachableError, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED.*FTI_KFP_CA"):
        healthy(connection(secure))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="holds no certificate"):
        healthy(connection(secure, FTI_KFP_CA=str(tmp_path / "ca.pem")))


def test_kfps_own_client_understands_the_stand_in(cluster: Kubeflow, shouting: str, tmp_path: Path) -> None:
    """So the stand-in is held from both sides."""
    import kfp

    file = tmp_path / "pipeline.yaml"
    file.write_text(shouting)
    client = kfp.Client(host=cluster.url)
    pipeline = client.upload_pipeline(str(file), pipeline_name="theirs")
    version = client.upload_pipeline_version(str(file), "v2", pipeline_id=pipeline.pipeline_id)
    experiment = client.create_experiment("mine")
    run = client.run_pipeline(
        experiment.experiment_id, "one", pipeline_id=pipeline.pipeline_id, version_id=version.pipeline_version_id
    )
    assert client.wait_for_run_completion(run.run_id, 10, 0).state == "SUCCEEDED"
    assert client.list_pipeline_versions(pipeline.pipeline_id).total_size == 2


@pytest.mark.parametrize(
    ("code", "headers", "content", "busy"),
    [
        (429, {}, {}, True),
        (503, {"retry-after": "1"}, {}, True),
        (503, {}, {"code": 14, "message": "try later"}, True),
        (503, {}, {"message": "upstream connect error or disconnect/reset before headers"}, False),
        (502, {}, {}, False),
    ],
)
def test_a_proxy_that_lost_the_server_does_not_say_that_nothing_was_begun(
    code: int, headers: dict[str, str], content: dict[str, object], busy: bool
) -> None:
    request = httpx.Request("POST", "http://kfp/apis/v2beta1/runs")
    response = httpx.Response(code, headers=headers, json=content, request=request)
    with pytest.raises(UnsureError) as caught:
        checked(response, Connection("http://kfp", "http://kfp"))
    assert caught.value.busy is busy
