"""A stand-in of the Kubeflow Pipelines API server: real HTTP, state in memory, every request held to the published API.

What it does like the server (kubeflow/pipelines, backend/src/apiserver): unique names of pipelines and versions (409),
recurring runs whose names are not unique, filters and pages, errors as gRPC's gateway and the upload server write
them, and a sign-in page by redirect. Runs follow a script; faults are ordered by the tests.
"""

import json
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubeflow.published import Operation, operation, wrong

PAGE = 2  # the most objects on a page: lists must be read to their end
_FILTERS = {
    "/experiments": {"display_name", "namespace", "experiment_id"},
    "/runs": {"display_name", "namespace", "experiment_id", "state", "run_id"},
    "/recurringruns": {"display_name", "recurring_run_id", "created_at"},
    "/versions": {"name", "display_name", "pipeline_version_id", "created_at"},
    "/pipelines": {"name", "display_name", "namespace", "pipeline_id"},
}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, code: int, message: str, *, upload: bool = False) -> None:
        self.code, self.message, self.upload = code, message, upload


@dataclass
class Fault:
    """What goes wrong with the next requests to a path.

    Attributes:
        path: Matched against `METHOD /path`.
        code: The answer; 0 cuts the connection.
        times: How many requests.
        done: Whether the request is carried out before.
        retry_after: Seconds that the answer asks for.
    """

    path: str
    code: int
    times: int = 1
    done: bool = False
    retry_after: str = ""


@dataclass
class Kubeflow:
    """The server's state, and what it saw.

    Attributes:
        token: That it asks for; empty: anybody may.
        cookie: In place of a token.
        many_users: Whether namespaces count.
        forbidden: Namespaces in which the caller may do nothing.
        script: The states of each run, one per look: maps with `state` and `run_details`; the last one stays.
        logs: By node.
    """

    token: str = ""
    cookie: str = ""
    many_users: bool = False
    forbidden: set[str] = field(default_factory=set)
    script: list[dict[str, Any]] = field(default_factory=lambda: [{"state": "SUCCEEDED"}])
    logs: dict[str, str] = field(default_factory=dict)
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)
    url: str = ""
    asking: str = ""
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    _looks: dict[str, int] = field(default_factory=dict)

    def answer(self, asked: Operation, values: tuple[str, ...], query: dict[str, str], body: Any) -> dict[str, Any]:
        """Carries out a request."""
        namespace = query.get("namespace") or (body.get("namespace", "") if isinstance(body, dict) else "")
        if namespace and not self.many_users:
            raise Refused(400, "In single-user mode, no request may name a namespace")
        if namespace in self.forbidden:
            upload = asked.name.startswith("upload")
            raise Refused(403, f"{self.asking} is not authorized in namespace {namespace}", upload=upload)
        do: dict[str, Callable[..., dict[str, Any]]] = {
            "healthz_service_get_healthz": lambda: {"multi_user": self.many_users},
            "pipeline_service_get_pipeline_by_name": lambda: self._by(
                self.pipelines, name=values[0], namespace=query.get("namespace", "")
            ),
            "pipeline_service_list_pipelines": lambda: self._page(self.pipelines, "pipelines", "/pipelines", query),
            "pipeline_service_create_pipeline": lambda: self._make_pipeline(body),
            "upload_pipeline": lambda: self._upload_pipeline(query, body),
            "upload_pipeline_version": lambda: self._upload_version(query, body),
            "pipeline_service_list_pipeline_versions": lambda: self._page(
                [v for v in self.versions if v["pipeline_id"] == values[0]], "pipeline_versions", "/versions", query
            ),
            "experiment_service_list_experiments": lambda: self._page(
                self._within(self.experiments, query), "experiments", "/experiments", query
            ),
            "experiment_service_get_experiment": lambda: self._by(self.experiments, experiment_id=values[0]),
            "experiment_service_create_experiment": lambda: self._make_experiment(body),
            "run_service_create_run": lambda: self._make_run(body),
            "run_service_get_run": lambda: self._look(values[0]),
            "run_service_list_runs": lambda: self._page(
                [r for r in self.runs if query.get("experiment_id", r["experiment_id"]) == r["experiment_id"]],
                "runs", "/runs", query,
            ),
            "recurring_run_service_create_recurring_run": lambda: self._make_recurring(body),
            "recurring_run_service_list_recurring_runs": lambda: self._page(
                self._within(self.recurring, query), "recurringRuns", "/recurringruns", query
            ),
            "recurring_run_service_enable_recurring_run": lambda: self._switch(values[0], "ENABLED"),
            "recurring_run_service_disable_recurring_run": lambda: self._switch(values[0], "DISABLED"),
            "recurring_run_service_delete_recurring_run": lambda: self._drop(values[0]),
        }  # fmt: skip
        answered = do[asked.name]()
        problems = wrong(answered, asked.answer, "answer")
        assert not problems, problems  # the stand-in itself keeps to the published API
        return answered

    def _made(self, kind: str, **entry: Any) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {kind: f"{kind.removesuffix('_id')}-{next(self._ids)}", "created_at": now, **entry}

    def _by(self, entries: list[dict[str, Any]], **equal: str) -> dict[str, Any]:
        for entry in entries:
            if all(entry.get(key, "") == value for key, value in equal.items()):
                return entry
        raise Refused(404, f"{equal} not found")

    def _within(self, entries: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry.get("namespace", "") == query.get("namespace", "")]

    def _page(self, entries: list[dict[str, Any]], key: str, path: str, query: dict[str, str]) -> dict[str, Any]:
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["key"] not in _FILTERS[path]:
                raise Refused(400, f"Invalid filter key {predicate['key']}")
            assert predicate["operation"] in ("EQUALS", 1)
            value = predicate.get("string_value") or predicate["stringValue"]
            entries = [entry for entry in entries if entry.get(predicate["key"]) == value]
        if "desc" in query.get("sort_by", ""):
            entries = entries[::-1]
        start = int(query.get("page_token") or 0)
        size = min(int(query.get("page_size") or PAGE), PAGE)
        page: dict[str, Any] = {key: entries[start : start + size], "total_size": len(entries)}
        if start + size < len(entries):
            page["next_page_token"] = str(start + size)
        return page if page[key] else {}

    def _make_pipeline(self, body: dict[str, Any]) -> dict[str, Any]:
        if any((p["name"], p.get("namespace")) == (body["name"], body.get("namespace")) for p in self.pipelines):
            raise Refused(409, f"Already exist error: The name {body['name']} already exist")
        self.pipelines.append(self._made("pipeline_id", **body))
        return self.pipelines[-1]

    def _upload_pipeline(self, query: dict[str, str], text: str) -> dict[str, Any]:
        pipeline = self._make_pipeline({k: v for k, v in query.items() if k in ("name", "description", "namespace")})
        self._upload_version({"name": query["name"], "pipelineid": pipeline["pipeline_id"]}, text)
        return pipeline

    def _upload_version(self, query: dict[str, str], text: str) -> dict[str, Any]:
        from google.protobuf.json_format import ParseDict
        from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

        if not any(p["pipeline_id"] == query["pipelineid"] for p in self.pipelines):
            raise Refused(400, "Failed to create a pipeline version", upload=True)
        spec, *platform = yaml.safe_load_all(text)
        ParseDict(spec, PipelineSpec())
        for document in platform:
            ParseDict(document, PlatformSpec())
        if any((v["pipeline_id"], v["name"]) == (query["pipelineid"], query["name"]) for v in self.versions):
            raise Refused(409, "Failed to create a pipeline version", upload=True)
        whole = {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
        self.versions.append(
            self._made(
                "pipeline_version_id", pipeline_id=query["pipelineid"], name=query["name"],
                display_name=query["name"], description=query.get("description", ""), pipeline_spec=whole,
            )
        )  # fmt: skip
        return self.versions[-1]

    def _make_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.many_users and not body.get("namespace"):
            raise Refused(400, "An experiment cannot have an empty namespace in multi-user mode")
        if any(e["display_name"] == body["display_name"] for e in self._within(self.experiments, body)):
            raise Refused(409, "Already exist error: Experiment exists")
        self.experiments.append(self._made("experiment_id", **body))
        return self.experiments[-1]

    def _referenced(self, body: dict[str, Any]) -> dict[str, Any]:
        self._by(self.experiments, experiment_id=body["experiment_id"])
        version = self._by(self.versions, **body["pipeline_version_reference"])
        spec = version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"])
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body.get("runtime_config", {}).get("parameters", {})
        if unknown := sorted(set(given) - set(inputs)):
            raise Refused(400, f"parameter {unknown[0]} is not found in the pipeline")
        return version

    def _make_run(self, body: dict[str, Any]) -> dict[str, Any]:
        self._referenced(body)
        self.runs.append(self._made("run_id", state="PENDING", **body))
        return self.runs[-1]

    def _look(self, run_id: str) -> dict[str, Any]:
        run = self._by(self.runs, run_id=run_id)
        look = self._looks.get(run_id, 0)
        self._looks[run_id] = look + 1
        return {**run, **self.script[min(look, len(self.script) - 1)]}

    def _make_recurring(self, body: dict[str, Any]) -> dict[str, Any]:
        self._referenced(body)
        cron = body["trigger"].get("cron_schedule", {}).get("cron", "")
        if cron and not cron.startswith("@") and len(cron.split()) not in (5, 6):
            raise Refused(400, "Schedule cron is not a supported format")
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body["mode"]]
        namespace = self._by(self.experiments, experiment_id=body["experiment_id"]).get("namespace", "")
        self.recurring.append(self._made("recurring_run_id", status=status, namespace=namespace, **body))
        return self.recurring[-1]

    def _switch(self, name: str, status: str) -> dict[str, Any]:
        self._by(self.recurring, recurring_run_id=name)["status"] = status
        return {}

    def _drop(self, name: str) -> dict[str, Any]:
        self.recurring.remove(self._by(self.recurring, recurring_run_id=name))
        return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Kubeflow
    lock: RLock

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path.removeprefix("/pipeline"))  # where Kubeflow's gateway serves it
        line = f"{self.command} {parts.path}"
        with self.lock:
            self.state.seen.append(line)
            fault = next((f for f in self.state.faults if f.times and re.fullmatch(f.path, line)), None)
            if fault:
                fault.times -= 1
            try:
                code, content = 200, self._answer(parts.path, parts.query, raw) if not fault or fault.done else {}
            except Refused as error:
                code, content = error.code, _refusal(error)
        if fault and not fault.code:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        if fault:
            code, content = fault.code, {"code": 14, "message": f"upstream of {self.state.url} is gone", "details": []}
        if code == 302:
            self._send(302, b"", {"location": "/dex/auth?client_id=kubeflow"})
        else:
            text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self._send(code, text, {"retry-after": fault.retry_after} if fault and fault.retry_after else {})

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve

    def _answer(self, path: str, query: str, raw: bytes) -> Any:
        self._require_known()
        if log := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
            if log[2] not in self.state.logs:
                raise Refused(500, "failed to get the pod", upload=True)
            return self.state.logs[log[2]]
        found = operation(self.command, path)
        if not found:
            raise Refused(404, "Not Found")
        asked, values = found
        given = {key: value[0] for key, value in parse_qs(query).items()}
        body, problems = self._body(asked, raw)
        problems += [f"query {key}" for key in given if key not in asked.queries]
        if problems:
            self.state.objections += [f"{self.command} {path}: {problem}" for problem in problems]
            raise Refused(400, "; ".join(problems))
        return self.state.answer(asked, values, given, body)

    def _body(self, asked: Operation, raw: bytes) -> tuple[Any, list[str]]:
        kind = self.headers.get("content-type", "")
        if asked.files:
            message = BytesParser(policy=HTTP).parsebytes(f"content-type: {kind}\r\n\r\n".encode() + raw)
            parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
            if set(parts) != set(asked.files):
                return "", [f"the form has {sorted(parts)}"]
            part = parts["uploadfile"]
            name = part.get_filename() or ""
            return part.get_payload(decode=True).decode(), [] if name.endswith(".yaml") else [f"the file is {name!r}"]
        if not asked.body:
            return None, [f"a body: {raw[:50]!r}"] if raw and raw != b"null" else []
        body = json.loads(raw)
        return body, wrong(body, asked.body, "body")

    def _require_known(self) -> None:
        self.state.asking = self.headers.get("authorization") or "Somebody"
        if self.state.token and self.headers.get("authorization") != f"Bearer {self.state.token}":
            given = self.headers.get("authorization", "none")
            raise Refused(401, f"Request header error: Authentication failed for {given}")
        if self.state.cookie and self.state.cookie not in self.headers.get("cookie", ""):
            raise Refused(302, "")

    def _send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"content-type": "application/json", "content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _refusal(error: Refused) -> dict[str, Any]:
    if error.upload:
        return {"error_message": error.message, "error_details": error.message}
    return {"error": error.message, "code": error.code, "message": error.message, "details": []}


@contextmanager
def kubeflow(certificate: tuple[Path, Path] | None = None, **state: Any) -> Iterator[Kubeflow]:
    """A running stand-in; at the end no request may have broken the published API."""
    standin = Kubeflow(**state)
    handler = type("Handler", (_Handler,), {"state": standin, "lock": RLock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    standin.url = f"{'https' if certificate else 'http'}://localhost:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert standin.objections == []
