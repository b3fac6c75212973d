"""Builds the images as a user does, by `make images`, from a copy of the sources."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.images.engine import Engine, NoEngineError

ROOT = Path(__file__).parents[2]
NAMES = ("predictor", "steps", "train")
VERSION = version("kfp-fti")
SECRETS = ("ca", "pip", "uv")  # what a build behind a proxy is told, and must not keep
_SOURCES = ("Dockerfile", ".dockerignore", "Makefile", "setup.py", "pyproject.toml", "README.md", "LICENSE")
_FOLDERS = ("components", "pipelines", "feature_repo", "images")
_BASES = ("python:3.11-slim", "kfp-fti/base:bookworm")  # the second is made here, where the first cannot be fetched


@dataclass(frozen=True)
class Images:
    """The images, built.

    Attributes:
        engine: Where they are.
        sboms: The folder of SBOMs.
    """

    engine: Engine
    sboms: Path

    def tag(self, name: str) -> str:
        """The full name of an image."""
        return f"kfp-fti/{name}:{VERSION}"


def marker(secret: str) -> str:
    """A text that stands in each secret of the build."""
    return f"marker-of-the-{secret}-secret"


def build(engine: Engine, folder: Path) -> Images:
    """Builds the images, and the SBOM of the predictor.

    Raises:
        NoEngineError: There is no base image, and none can be made.
    """
    for name in _SOURCES:
        shutil.copy(ROOT / name, folder / name)
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.whl"))
    torch = _hand_in_wheels(folder / "images/wheels/cpu")
    secrets = _secrets(folder)
    base = _base(engine, folder)
    options = [f"BASE={base}", f"TORCH_BACKEND={'' if torch else 'cpu'}", *secrets]
    _make(engine, folder, "images", *options, f"IMAGES={' '.join(NAMES)}")
    _make(engine, folder, "sbom", *options, "IMAGES=predictor")
    return Images(engine, folder / "dist")


def _hand_in_wheels(wheels: Path) -> bool:
    """Torch for CPUs is not on every index: pip's own setting may name a folder that has it. Whether it was found."""
    found = [
        wheel for place in os.environ.get("PIP_FIND_LINKS", "").split() for wheel in Path(place).glob("torch-*.whl")
    ]
    for wheel in found:
        shutil.copy(wheel, wheels)
    return bool(found)


def _secrets(folder: Path) -> list[str]:
    """The machine's certificate authorities, and settings of pip and uv; each with a mark to look for afterwards."""
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    texts = {"ca": Path(bundle).read_text(), "pip": "[global]\n", "uv": ""}
    for name, text in texts.items():
        (folder / f"{name}.secret").write_text(f"{text}\n# {marker(name)}\n")
    return [
        f"{name}={folder}/{secret}.secret" for name, secret in zip(("CA", "PIP_CONF", "UV_CONF"), SECRETS, strict=True)
    ]


def _base(engine: Engine, folder: Path) -> str:
    published, own = _BASES
    pulled = subprocess.run(
        [engine.client, "pull", "--quiet", published], env=engine.environ, capture_output=True, text=True, timeout=120
    )
    if pulled.returncode == 0:
        return published
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise NoEngineError(f"{published} cannot be pulled, and without root and debootstrap no base can be made")
    if own not in engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        _make(engine, folder, "base")
    return own


def _make(engine: Engine, folder: Path, *arguments: str) -> None:
    made = subprocess.run(
        ["make", *arguments, f"DOCKER={engine.client}"], cwd=folder, env=engine.environ, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-5000:]
