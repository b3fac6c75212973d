"""Uploading pipelines: the same content is the same version, however often it is uploaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fti.common.errors import ConfigError
from fti.kubeflow.api import Api
from fti.kubeflow.refusals import ConflictError, MissingError
from fti.kubeflow.resources import read_compiled

_LONGEST_NAME = 127


@dataclass(frozen=True)
class Version:
    """A version of a pipeline on a cluster.

    Attributes:
        pipeline: The pipeline's name.
        pipeline_id: The pipeline's id.
        name: The version's name.
        id: The version's id.
        created: Whether this upload made it.
        link: Its page.
    """

    pipeline: str
    pipeline_id: str
    name: str
    id: str
    created: bool
    link: str


def upload(api: Api, text: str, *, version_name: str = "") -> Version:
    """Uploads a compiled pipeline, unless it is there.

    A version carries the digest of its content in its description, and by default in its name, after the library's
    version: so an upload that is repeated, or whose answer was lost, finds what it made.

    Args:
        api: The cluster's API.
        text: The compiled YAML.
        version_name: The version's name; default `<version of the library>-<digest>`.

    Raises:
        ConfigError: The text is no compiled pipeline, or the version's name is too long.
        PipelinesError: The name is taken by other content; or the server refuses.
    """
    spec = read_compiled(text).spec
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = version_name or f"{version('kfp-fti')}-{digest[:12]}"
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"the version's name has {len(name)} letters", allowed=f"at most {_LONGEST_NAME}")
    pipeline = _pipeline(api, spec["pipelineInfo"]["name"], _description(spec))
    found = _with_digest(api, pipeline["pipeline_id"], digest)
    return _version(api, pipeline, found, created=False) if found else _upload(api, pipeline, text, name, digest)


def _pipeline(api: Api, name: str, description: str) -> dict[str, Any]:
    """The pipeline of that name, made where it is missing."""
    within = {"namespace": api.connection.namespace} if api.connection.namespace else {}

    def find() -> dict[str, Any] | None:
        try:
            return api.get(f"/pipelines/names/{name}", **within)
        except MissingError:
            return None

    body = {"name": name, "display_name": name, "description": description, **within}
    try:
        return find() or api.create("/pipelines", find, body=body)
    except ConflictError:  # made by another at this moment
        return api.get(f"/pipelines/names/{name}", **within)


def _upload(api: Api, pipeline: dict[str, Any], text: str, name: str, digest: str) -> Version:
    pipeline_id = pipeline["pipeline_id"]
    try:
        made = api.create(
            "/pipelines/upload_version",
            lambda: _with_digest(api, pipeline_id, digest),
            files={"uploadfile": ("pipeline.yaml", text.encode(), "application/yaml")},
            name=name,
            pipelineid=pipeline_id,
            description=_marked(digest),
        )
    except ConflictError as error:
        if found := _with_digest(api, pipeline_id, digest):  # uploaded by another at this moment
            return _version(api, pipeline, found, created=False)
        raise ConflictError(
            f"{_name(pipeline)} has a version {name} with other content",
            remedy="Choose another name, or none: then the content names it",
        ) from error
    return _version(api, pipeline, made, created=True)


def _with_digest(api: Api, pipeline_id: str, digest: str) -> dict[str, Any] | None:
    versions = api.pages(f"/pipelines/{pipeline_id}/versions", "pipeline_versions", sort_by="created_at desc")
    return next((found for found in versions if _marked(digest) in (found.get("description") or "")), None)


def _marked(digest: str) -> str:
    return f"sha256:{digest}"


def _version(api: Api, pipeline: dict[str, Any], found: dict[str, Any], *, created: bool) -> Version:
    ids = (pipeline["pipeline_id"], found["pipeline_version_id"])
    return Version(
        pipeline=_name(pipeline),
        pipeline_id=ids[0],
        name=_name(found),
        id=ids[1],
        created=created,
        link=api.connection.link("pipelines", "details", ids[0], "version", ids[1]),
    )


def _name(found: dict[str, Any]) -> str:
    return str(found.get("name") or found["display_name"])


def _description(spec: Mapping[str, Any]) -> str:
    """What the pipeline's page shows, as Markdown: the run form itself shows names, types and defaults alone."""
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    about = [f"- `{name}`: {of.get('description', '')}" for name, of in inputs.items()]
    return "\n".join([spec["pipelineInfo"].get("description", ""), *(["", "Parameters:", *about] if about else [])])
