"""How the tests run containers: as a strict cluster does."""

from pathlib import Path
from typing import Any

from docker.types import Mount

MEMORY_MB = 3072
USER = 65532
HOME = "/state"  # FTI_HOME: a volume; everything else but /tmp is read-only


def strict(environment: dict[str, str], home: Path, *more: Mount) -> dict[str, Any]:
    """Arguments of a container with a read-only root, no rights, little memory, and our own network.

    Args:
        environment: What it is told; secrets too.
        home: The folder that becomes its FTI_HOME.
        more: Further mounts.
    """
    return {
        "network_mode": "host",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,nosuid,nodev,size=1g,mode=1777"},
        "mem_limit": f"{MEMORY_MB}m",
        "memswap_limit": f"{MEMORY_MB}m",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 512,
        "environment": {**environment, "FTI_HOME": HOME},
        "mounts": [Mount(HOME, str(home), type="bind"), *more],
    }
