"""Our components in a pipeline that has nothing else of ours: by path and by URL, where only kfp is installed."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from threading import Thread

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COMPONENTS = Path(__file__).parents[2] / "components"
CODE = """
import importlib.util, sys
from kfp import compiler, components, dsl
assert importlib.util.find_spec("fti") is None, "only kfp is installed"
path, url, target = sys.argv[1:]
ingest = components.load_component_from_file(f"{path}/ingest/component.yaml")
validate = components.load_component_from_url(f"{url}/validate/component.yaml")
require = components.load_component_from_url(f"{url}/require/component.yaml")

@dsl.component(base_image="theirs:1", install_kfp_package=False)
def use(table: dsl.Input[dsl.Dataset]):
    print(table.path)

@dsl.pipeline(name="theirs")
def theirs(source: str, contract: str):
    raw = ingest(source=source, table="mine")
    checked = validate(raw=raw.outputs["raw"], contract=contract)
    good = require(verdict=checked.outputs["Output"])
    use(table=checked.outputs["valid"]).after(good)

compiler.Compiler().compile(theirs, target)
"""


def needed(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """A distribution, and all that it requires, as they are installed here."""
    name = canonicalize_name(name)
    if name in found:
        return found
    try:
        found[name] = distribution(name)
    except PackageNotFoundError:  # for another system
        return found
    for text in found[name].requires or []:
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with kfp and what kfp requires; linked, for all of it is installed here."""
    folder = tmp_path_factory.mktemp("only-kfp")
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    for dist in needed("kfp", {}).values():
        for top in {Path(str(file)).parts[0] for file in dist.files or []} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The folder of the components, over HTTP."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(COMPONENTS)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_three_components_by_path_and_by_url_where_only_kfp_is(python: Path, served: str, tmp_path: Path) -> None:
    target, program = tmp_path / "theirs.yaml", tmp_path / "theirs.py"
    program.write_text(CODE)
    command = [str(python), "-I", str(program), str(COMPONENTS), served, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    spec = yaml.safe_load(target.read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"ingest", "validate", "require", "use"}
    assert tasks["use"]["dependentTasks"] == ["require", "validate"]
    executors = spec["deploymentSpec"]["executors"]
    for name in ("ingest", "validate", "require"):
        committed = yaml.safe_load((COMPONENTS / name / "component.yaml").read_text())
        assert executors[f"exec-{name}"] == committed["deploymentSpec"]["executors"][f"exec-{name}"]
    assert "pip install" not in target.read_text()
