"""Types and layers, checked on the library as a plain install lays it out.

Neither mypy nor import-linter can follow the hook of an editable install.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
CHECKS = (
    [str(BIN / "lint-imports"), "--no-cache", "--config", str(ROOT / "pyproject.toml")],
    [
        str(BIN / "mypy"),
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        "-p",
        "fti",
    ],
)


def main() -> int:
    with TemporaryDirectory() as folder:
        package = Path(folder) / "fti"
        package.mkdir()
        for source in (ROOT / "components").iterdir():
            (package / source.name).symlink_to(source)
        for name in ("pipelines", "feature_repo"):
            (package / name).symlink_to(ROOT / name)
        environ = {**os.environ, "PYTHONPATH": folder}
        codes = [subprocess.run(check, cwd=folder, env=environ, check=False).returncode for check in CHECKS]
        return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
