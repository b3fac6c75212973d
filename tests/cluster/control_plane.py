"""A real Kubernetes control plane on this machine, where its binaries are: etcd and kube-apiserver.

As controller-runtime's envtest finds them: in the folder that `KUBEBUILDER_ASSETS` names (`setup-envtest use -p path`
fetches one), else on PATH. Where `kube-controller-manager` is there too, Deployments get pods, quotas are counted and
what lies in a deleted namespace goes. There is no kubelet: pods run nowhere.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.object_store import free_ports

_SECONDS = 90


def binary(name: str) -> str | None:
    """Where a binary of the control plane is, or None."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    return shutil.which(name, path=folder) if folder else shutil.which(name)


@contextmanager
def control_plane(folder: Path) -> Iterator[Path]:
    """Runs a control plane with RBAC and Pod Security admission.

    Args:
        folder: For its state, keys and logs.

    Yields:
        A kubeconfig of an administrator.
    """
    etcd, peer, port, manager_port = free_ports(4)
    (folder / "sa.key").write_bytes(_private_key())
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    kubeconfig = folder / "kubeconfig"
    with ExitStack() as stack:
        stack.enter_context(
            _process(
                folder,
                "etcd",
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{etcd}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                "--unsafe-no-fsync",
            )
        )
        server = stack.enter_context(
            _process(
                folder,
                "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                f"--cert-dir={folder}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                "--service-cluster-ip-range=10.0.0.0/24",
                f"--service-account-key-file={folder / 'sa.key'}",
                f"--service-account-signing-key-file={folder / 'sa.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
            )
        )
        _wait(server, folder, f"https://127.0.0.1:{port}/readyz")
        _write_kubeconfig(kubeconfig, f"https://127.0.0.1:{port}", folder / "apiserver.crt", token)
        if binary("kube-controller-manager"):
            stack.enter_context(
                _process(
                    folder,
                    "kube-controller-manager",
                    f"--kubeconfig={kubeconfig}",
                    f"--service-account-private-key-file={folder / 'sa.key'}",
                    f"--root-ca-file={folder / 'apiserver.crt'}",
                    "--leader-elect=false",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={manager_port}",
                )
            )
        yield kubeconfig


@contextmanager
def _process(folder: Path, name: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    program = binary(name)
    assert program, f"{name} is not on this machine"
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _wait(server: "subprocess.Popen[bytes]", folder: Path, url: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            context = ssl.create_default_context(cafile=str(folder / "apiserver.crt"))
            with urlopen(url, timeout=5, context=context) as answer:
                assert answer.status == 200
                return
        except (URLError, OSError):
            if server.poll() is not None or time.monotonic() > deadline:
                log = (folder / "kube-apiserver.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"kube-apiserver does not come up:\n{log}") from None
            time.sleep(0.1)


def _write_kubeconfig(path: Path, server: str, authority: Path, token: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
