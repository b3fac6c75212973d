"""What the images are: small, without root, pip and secrets, and described."""

import json
import subprocess

import pytest

from tests.images.building import NAMES, SECRETS, VERSION, Images, marker
from tests.images.containers import USER
from tests.images.imports import imports_of
from tests.images.test_lists import IMPORTED, listed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds the images

# MB, with some room: a package that slips in has to be meant. docs/images.md says what fills them.
LARGEST = {"predictor": 850, "steps": 1400, "train": 2200}
INSPECT = """
import json, os
found = {"uid": os.getuid(), "pip": [], "writable": []}
for folder, folders, files in os.walk("/"):
    if folder in ("/proc", "/sys", "/dev", "/tmp"):
        folders.clear()
        continue
    found["pip"] += [f"{folder}/{name}" for name in (*folders, *files) if name in ("pip", "pip3", "ensurepip", "uv")]
    if os.access(folder, os.W_OK):
        found["writable"].append(folder)
print(json.dumps(found))
"""
CACHED = """
import os, feast, fti.serve.features
print([os.path.exists(module.__cached__) for module in (feast, fti.serve.features)])
"""


def run_python(images: Images, name: str, code: str) -> str:
    return images.engine.docker(
        "run", "--rm", "--network", "none", "--entrypoint", "python3", images.tag(name), "-c", code
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_root_no_pip_and_scratch_alone_to_write(images: Images, name: str) -> None:
    found = json.loads(run_python(images, name, INSPECT))
    assert found["uid"] == USER
    assert found["pip"] == []
    # Debian's own scratch; with the read-only root of a cluster it is closed too.
    assert set(found["writable"]) <= {"/var/tmp", "/run/lock"}


@pytest.mark.parametrize("name", NAMES)
def test_papers_and_size(images: Images, name: str) -> None:
    (image,) = json.loads(images.engine.docker("image", "inspect", images.tag(name)))
    labels = {key.removeprefix("org.opencontainers.image."): text for key, text in image["Config"]["Labels"].items()}
    assert labels["title"] == f"kfp-fti/{name}"
    assert (labels["version"], labels["licenses"]) == (VERSION, "Apache-2.0")
    assert "revision" in labels and labels["description"]
    assert image["Config"]["User"] == f"{USER}:{USER}"
    assert image["Size"] / 1e6 < LARGEST[name]


def test_secrets_of_the_build_stay_out_of_every_layer(images: Images) -> None:
    tags = [images.tag(name) for name in NAMES]
    texts = [option for secret in SECRETS for option in ("-e", marker(secret))]
    save = subprocess.Popen([images.engine.client, "save", *tags], stdout=subprocess.PIPE, env=images.engine.environ)
    counted = subprocess.run(["grep", "-a", "-c", "-F", *texts], stdin=save.stdout, capture_output=True, text=True)
    assert save.wait() == 0
    assert counted.stdout.strip() == "0"


def test_the_sbom_lists_what_was_locked(images: Images) -> None:
    described = json.loads((images.sboms / f"predictor-{VERSION}.cdx.json").read_text())
    assert described["bomFormat"] == "CycloneDX"
    found = {part["purl"].removeprefix("pkg:pypi/").split("?")[0] for part in described["components"] if "purl" in part}
    assert found >= {f"{package}@{text}" for package, text in listed("predictor").items()}
    assert any(part["name"] == "kfp-fti" and part["version"] == VERSION for part in described["components"])


@pytest.mark.parametrize("name", NAMES)
def test_what_an_image_holds_can_be_imported(images: Images, name: str) -> None:
    """Its programs' packages, and KFP's executor, without test suites, headers and kfp's own dependencies."""
    modules, absent = IMPORTED[name]
    executor = {"kfp.dsl.executor_main"} if name != "predictor" else set()
    names = sorted((imports_of(modules) | executor) - absent - {"google", "kfp"})
    code = f"import os; os.environ['_KFP_RUNTIME'] = 'true'; import {', '.join(names)}"
    assert run_python(images, name, code) == ""


def test_bytecode_is_there_already(images: Images) -> None:
    """A root that cannot be written cannot cache it, and each step would compile Feast and pandas anew."""
    assert run_python(images, "predictor", CACHED).strip() == "[True, True]"
