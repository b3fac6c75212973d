"""What shall serve, and what does: the state of the local runner."""

import json
import os
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fti.common.errors import FtiError, ServingError
from fti.common.files import atomic_file
from fti.common.inference_service import CANARY, read_service, service_names
from fti.common.settings import LOCAL, Settings
from fti.serve.local.envoy import GRPC
from fti.serve.local.plan import Replica, read_checked
from fti.serve.local.unit import Unit

State = dict[str, Any]


def state_path(settings: Settings) -> Path:
    """Where the runner writes its state while it runs."""
    return settings.home / "serving.json"


def write_state(state: State, settings: Settings) -> None:
    """Writes the runner's state, with what tells this process from a later one of the same id."""
    own = {"pid": os.getpid(), "pid_started": _started(os.getpid())}
    with atomic_file(state_path(settings)) as scratch:
        scratch.write_text(json.dumps({**own, **state}, indent=2) + "\n", encoding="utf-8")


def replica_state(replica: Replica, unit: Unit, cluster: str) -> State:
    """The state of a predictor that has traffic.

    Args:
        replica: Its share and ports.
        unit: Its process.
        cluster: The gateway's name for its share of the traffic over HTTP.
    """
    return {
        "revision": replica.revision.name,
        "percent": replica.percent,
        "shadow": replica.shadow,
        "pid": unit.child.pid if unit.child else None,
        "port": replica.port,
        "grpc_port": replica.grpc_port,
        "ready": unit.ready,
        "restarts": unit.restarts,
        "cluster": cluster,
        "grpc_cluster": cluster + GRPC,
    }


def remove_state(settings: Settings) -> None:
    """Removes the runner's state."""
    state_path(settings).unlink(missing_ok=True)


def read_state(settings: Settings) -> State | None:
    """Reads the state of the runner, or None where none runs."""
    try:
        state = json.loads(state_path(settings).read_text(encoding="utf-8"))
        alive = state["pid_started"] == _started(state["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return state if alive else None  # a runner that was killed leaves its state behind


def read(settings: Settings) -> State:
    """What was pushed and what runs.

    Returns:
        `pid` and `port` of the runner or None; and `services`: by name `desired` (variant to revision and percent),
        `actual` (url; `revisions`, by variant what `replica_state` says; and `kept`, the revision that takes over again
        should the stable one die, or None) or None, `in_sync`
        (whether all that is desired runs and is ready), `failures` (why a variant cannot be served), `stopped` where
        it shall not run, `warnings` where its manifest asks for more than this machine can do, and `error` where it
        cannot be served as that says.
    """
    state = read_state(settings) or {"pid": None, "port": None, "services": {}, "failures": {}}
    running: State = state["services"]
    services = {name: _service(name, running.get(name), settings) for name in service_names(settings)}
    for name, service in services.items():
        own = {variant: state["failures"].get(f"{name}-{variant}") for variant in service["desired"]}
        service["failures"] = {variant: why for variant, why in own.items() if why}
    for name in running.keys() - services.keys():
        services[name] = {"desired": {}, "actual": running[name], "in_sync": False}
    return {"pid": state["pid"], "port": state["port"], "services": services}


def wait_in_sync(name: str, settings: Settings, seconds: float = 60.0) -> bool:
    """Waits until a running `fti serve` serves a service as it is desired.

    Returns:
        False where nobody serves it here.

    Raises:
        ServingError: It is not served as desired in time, or cannot be; says why.
    """
    deadline = monotonic() + seconds
    while name in (read_state(settings) or {"services": {}})["services"]:
        service = read(settings)["services"][name]
        if service["in_sync"]:
            return True
        if service["failures"] or "error" in service or monotonic() > deadline:
            failed = [f"{variant}: {failure}" for variant, failure in service["failures"].items()]
            why = "; ".join([service["error"]] if "error" in service else failed)
            raise ServingError(
                f"{name} is not served as desired: {why or f'not within {seconds:.0f} s'}", remedy="See `fti status`"
            )
        sleep(0.05)
    return False


def _service(name: str, actual: State | None, settings: Settings) -> State:
    try:
        local = settings.serving == LOCAL
        service, warnings = read_checked(name, settings) if local else (read_service(name, settings), ())
    except FtiError as error:
        return {"desired": {}, "actual": actual, "in_sync": False, "error": str(error)}
    stopped = bool(service and service.stopped)
    revisions = service.revisions() if service and not stopped else {}
    desired = {
        variant: {
            "revision": revision.name,
            "percent": percent,
            "shadow": bool(service and service.shadow and variant == CANARY),
        }
        for variant, (revision, percent) in revisions.items()
    }
    found = actual["revisions"] if actual else {}
    same = {
        variant: {key: of[key] for key in ("revision", "percent", "shadow")} for variant, of in found.items()
    } == desired
    in_sync = same and all(of["ready"] for of in found.values())
    more = {**({"stopped": True} if stopped else {}), **({"warnings": list(warnings)} if warnings else {})}
    return {"desired": desired, "actual": actual, "in_sync": in_sync, **more}


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot (field 22 of proc(5)'s stat), or None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
