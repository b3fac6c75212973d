"""The KFP decorators: a lightweight component over an image that already holds this library.

Nothing is installed when a step runs. The image's tag is the library's version, so a pipeline and its code
cannot drift apart, and KFP's cache (which keys on the image) forgets when the code changes.
"""

import os
from functools import partial
from importlib.metadata import version

from kfp import dsl

IMAGE = os.environ.get("FTI_IMAGE") or f"kfp-fti/steps:{version('kfp-fti')}"
# Torch makes an image more than half as large again: only the step that trains carries it (docs/images.md).
TRAIN_IMAGE = os.environ.get("FTI_TRAIN_IMAGE") or IMAGE.replace("kfp-fti/steps:", "kfp-fti/train:")

step = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
training_step = partial(dsl.component, base_image=TRAIN_IMAGE, install_kfp_package=False)


def uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Runs a step each time: one that changes something, or reads what may have changed behind the same name.

    KFP's cache knows a step by its parameters and input artifacts. A source, a contract, a feature store and the model
    now served can change while their names stay.
    """
    return task.set_caching_options(enable_caching=False)
