"""Explanations of predictions: which feature moved a score by how much, computed in a process of their own.

`:explain` of KServe's V1 protocol. One explanation is computed at a time, few wait, and all within a budget of time;
predictions go on meanwhile. `docs/explain.md` says what the numbers mean.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fti.common.model_package import BACKGROUND, ModelPackage, Signature
from fti.common.settings import Settings
from fti.serve.columns import BadRequestError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

BUDGET_HEADER = "x-fti-explain-budget-ms"
_MOST_WAITING = 4
_LONGEST_LINE = 256 * 1024 * 1024  # bytes of an answer
_LATE = 5.0  # seconds after its time in which an answer may still come; then the process is taken for hung
_FOR_THE_WAY = 0.02  # seconds of a request's time that are kept for sending it and its answer
_START_WITHIN = 120.0  # seconds


class ExplainError(BadRequestError):
    """An explanation that there is not, and why."""


class Explainer:
    """Asks the process that explains; starts it when it is first needed, and again when it has died.

    Args:
        uri: The model package: a folder or a URI.
        package: The same, verified.
        settings: How object stores are reached.
        budget_ms: How long an explanation may take at most; 0 refuses all.
    """

    def __init__(self, uri: str, package: ModelPackage, settings: Settings, budget_ms: int) -> None:
        self._task = {"package": uri, "digest": package.digest}
        self._settings, self.budget_ms = settings, budget_ms
        self._has_background = (package.path / BACKGROUND).is_file()
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    def seconds(self, headers: Mapping[bytes, bytes]) -> float:
        """How long the explanation of a request may take.

        Raises:
            ExplainError: The model is not explained, or the request wants more than there is.
        """
        if not self.budget_ms:
            raise ExplainError("this server does not explain (--explain_budget_ms 0)", 404)
        if not self._has_background:
            raise ExplainError(f"the model has no explanations: its package has no {BACKGROUND}. Train it again", 404)
        given = headers.get(BUDGET_HEADER.encode(), str(self.budget_ms).encode())
        if not given.isdigit() or len(given) > 9 or not 0 < int(given) <= self.budget_ms:
            shown = given[:20].decode("latin-1")
            raise ExplainError(f"{BUDGET_HEADER}: {shown!r}. Allowed: 1 to {self.budget_ms} (milliseconds)")
        return int(given) / 1000

    async def explain(self, columns: "Mapping[str, np.ndarray]", seconds: float) -> dict[str, Any]:
        """Explains rows.

        Args:
            columns: Every input of the model, [N] each.
            seconds: How long it may take, from now.

        Returns:
            `method`, `space`, `background_rows`, `samples`, `note`; `base` [k], `scores` [N, k], `contributions`
            [N, F, k], `errors` [N, F, k] or None.

        Raises:
            ExplainError: 429, too many wait; 503, the process cannot start or has died; 504, the time does not suffice.
        """
        if self._waiting >= _MOST_WAITING:
            raise ExplainError(f"{self._waiting} explanations are waited for already. Ask again later", 429)
        deadline = asyncio.get_running_loop().time() + seconds
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._in_turn(columns, deadline, seconds)
        except TimeoutError:
            state = "others came first, or it has just started" if self._process else "the explainer is still starting"
            raise ExplainError(f"no explanation within {1000 * seconds:.0f} ms: {state}. Ask again", 504) from None
        finally:
            self._waiting -= 1
        if "error" in answer:
            raise ExplainError(answer["error"], 504)
        return answer

    async def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            await self._end(self._process)

    async def _in_turn(self, columns: "Mapping[str, np.ndarray]", deadline: float, seconds: float) -> dict[str, Any]:
        await self._turn.acquire()
        # Once begun it outlives the request: the process is asked again when it has answered, or was ended.
        asking = asyncio.ensure_future(self._ask(columns, deadline, seconds))
        asking.add_done_callback(self._done)
        return await asyncio.shield(asking)

    def _done(self, asking: "asyncio.Future[dict[str, Any]]") -> None:
        self._turn.release()
        if not asking.cancelled():
            asking.exception()  # nobody may be waiting for it any more

    async def _ask(self, columns: "Mapping[str, np.ndarray]", deadline: float, seconds: float) -> dict[str, Any]:
        import orjson

        process = await self._running()
        left = deadline - asyncio.get_running_loop().time() - _FOR_THE_WAY
        if left <= 0:
            raise TimeoutError
        values = {name: column.tolist() for name, column in columns.items()}
        request = {"seconds": left, "columns": values}
        answer = await self._exchange(process, orjson.dumps(request), left + _LATE)
        if "error" in answer and left < seconds / 2:  # what it lacks was spent on waiting: it may fit the next time
            raise TimeoutError
        return answer

    async def _running(self) -> asyncio.subprocess.Process:
        import orjson

        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = None
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "fti.serve.explain.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            env={**os.environ, **self._settings.environ(), "OMP_NUM_THREADS": "1"},
        )
        ready = await self._exchange(process, orjson.dumps(self._task), _START_WITHIN)
        if "error" in ready:
            log.error("the explainer does not start: %s", ready["error"])
            raise ExplainError("the explainer does not start; the server's log says why", 503)
        self._process = process
        return process

    async def _exchange(self, process: asyncio.subprocess.Process, line: bytes, seconds: float) -> dict[str, Any]:
        """Sends a line and receives one."""
        import orjson

        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(line + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except (TimeoutError, ConnectionError, ValueError):  # the last: a line longer than any answer may be
            answer = b""
        if not answer.endswith(b"\n"):
            await self._end(process)
            log.error("the explainer has died or hung (status %s)", process.returncode)
            raise ExplainError("the explainer has died, and starts anew when it is asked again", 503)
        message: dict[str, Any] = orjson.loads(answer)
        return message

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._process = None


def encode(signature: Signature, predictions: bytes, found: Mapping[str, Any]) -> bytes:
    """Encodes `{"predictions": [...], "explanations": [...], "explanation": {...}}`.

    Args:
        signature: The model's.
        predictions: The answer to the same rows of `:predict`.
        found: As `Explainer.explain` gives it.
    """
    import orjson

    names = [feature.name for feature in signature.inputs]
    several = len(found["base"]) > 1
    labels = [str(label) for label in signature.classes] if several else [""]
    rows = []
    for place, scores in enumerate(found["scores"]):
        row: dict[str, Any] = {}
        for code, label in enumerate(labels):
            parts: dict[str, Any] = {"base": found["base"][code], "score": scores[code]}
            for kind in ("contributions", "errors"):
                if found[kind] is not None:
                    parts[kind] = {name: of[code] for name, of in zip(names, found[kind][place], strict=True)}
            row |= {label: parts} if several else parts
        rows.append(row)
    how = {name: found[name] for name in ("method", "space", "background_rows", "samples", "note") if found[name]}
    if signature.task == "binary":
        how["class"] = signature.classes[1]
    return orjson.dumps({**orjson.loads(predictions), "explanations": rows, "explanation": how})
