"""Type-checks a plain install of the library: mypy cannot follow the hook of an editable one."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent


def main() -> int:
    with TemporaryDirectory() as folder:
        package = Path(folder) / "fti"
        package.mkdir()
        for source in (ROOT / "components").iterdir():
            (package / source.name).symlink_to(source)
        for name in ("pipelines", "feature_repo"):
            (package / name).symlink_to(ROOT / name)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "fti"]
        cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
        return subprocess.run([*command, *cache], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
