"""The pipelines composed of the components: features, training, deployment, and the whole loop."""

import importlib
from typing import Any

PIPELINES = ("features", "training", "deployment", "loop")


def pipeline_named(name: str) -> Any:
    """The KFP pipeline of that name, imported when asked for."""
    return getattr(importlib.import_module(f"fti.pipelines.{name}"), name)
