"""Applies feature repositories in real processes: all at once, or one after the other, some of which are killed.

Feast is imported once, in a process of its own; then one is forked for each apply.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from fti.common.settings import Settings

ROOT = Path(__file__).parents[2]


class Apply(NamedTuple):
    """An apply; a process with `dies_at` n is killed before its n-th write to the registry."""

    home: str
    repo: str
    dies_at: int = 0


def run(applies: list[Apply], *, at_once: bool) -> list[int]:
    """Runs applies; returns the exit codes of their processes, -9 for one that was killed."""
    command = [sys.executable, "-m", "tests.feature_repo.applying", json.dumps(applies), str(int(at_once))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    sys.stderr.write(done.stderr)  # what the processes say of themselves
    return [int(code) for code in done.stdout.split()]


def _main(applies: list[Apply], *, at_once: bool) -> None:
    from fti.common.feature_store import _import_feast_fast

    _import_feast_fast()
    import feast.infra.online_stores.sqlite
    import feast.infra.registry.sql  # noqa: F401

    for batch in [applies] if at_once else [[each] for each in applies]:
        start, go = os.pipe()
        children = [_child(each, start, go) for each in batch]
        os.close(start)
        os.close(go)  # the last end of the pipe: all children start
        print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


def _child(each: Apply, start: int, go: int) -> int:
    child = os.fork()
    if child:
        return child
    os.close(go)
    os.read(start, 1)
    try:
        os.environ["FTI_HOME"] = each.home
        _apply(Path(each.repo), each.dies_at)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _apply(repo: Path, dies_at: int) -> None:
    from sqlalchemy import Engine, event

    from fti.common.feature_store import open_store
    from fti.featurize.definitions import apply, load_definitions

    left = dies_at

    @event.listens_for(Engine, "before_cursor_execute")
    def count(connection: object, cursor: object, statement: str, *rest: object) -> None:
        nonlocal left
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE", "CREATE")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(str(repo), Settings.from_env())
    apply(store, load_definitions(repo), repo)


if __name__ == "__main__":
    _main([Apply(*each) for each in json.loads(sys.argv[1])], at_once=sys.argv[2] == "1")
