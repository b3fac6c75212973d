"""The one KFP decorator: a lightweight component over the image that already holds this library.

Nothing is installed when a step runs. The image's tag is the library's version, so a pipeline and its code
cannot drift apart, and KFP's cache (which keys on the image) forgets when the code changes.
"""

import os
from functools import partial
from importlib.metadata import version

from kfp import dsl

IMAGE = os.environ.get("FTI_IMAGE") or f"kfp-fti/steps:{version('kfp-fti')}"

step = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
