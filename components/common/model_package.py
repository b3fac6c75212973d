"""Model packages: one folder that holds a model, what it expects, where it comes from, and proof that it is whole.

    model.onnx          what is served: inputs `numeric` and `categorical`, output `probability` or `value`
    model.skops         the native model (scikit-learn), or
    model.safetensors   its weights, with `model.json`, its shape (torch)
    signature.json      names, types and order of inputs and outputs
    examples.json       a few rows and the answers that belong to them
    provenance.json     data digests, algorithm, hyperparameters, seed, versions, metrics
    card.md             the same, for people
    checksums.json      the SHA-256 of every other file; its own SHA-256 is the package's digest

No file in a package is ever executed or unpickled. Nothing in it depends on when or where it was made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fti.common.errors import PackageError
from fti.common.files import atomic_dir, sha256_of
from fti.common.tables import Feature

Task = Literal["binary", "multiclass", "regression"]
Label = str | int | bool | float

ONNX = "model.onnx"
SIGNATURE = "signature.json"
EXAMPLES = "examples.json"
PROVENANCE = "provenance.json"
CARD = "card.md"
CHECKSUMS = "checksums.json"
REQUIRED = (ONNX, SIGNATURE, EXAMPLES, PROVENANCE, CARD)
_REMEDY = "Train the model again, or copy the whole package from where it was written"


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        name: The model's name.
        task: `binary`, `multiclass` or `regression`.
        inputs: The features, in order. Numbers go to the graph's `numeric`, strings to `categorical`.
        classes: The labels in the order of the columns of `probability`; empty for regression.
        threshold: For `binary`: `classes[1]` is predicted from this probability on. Else None.
        label: The column that is predicted.
        entity_keys: Join keys by which the feature store is asked for the inputs.
        feature_service: Feast's name of the set of features; empty where all inputs come with the request.
    """

    name: str
    task: Task
    inputs: tuple[Feature, ...]
    classes: tuple[Label, ...] = ()
    threshold: float | None = None
    label: str = ""
    entity_keys: tuple[str, ...] = ()
    feature_service: str = ""

    @property
    def numeric(self) -> tuple[str, ...]:
        """The names of the columns of `numeric`, in order."""
        return tuple(feature.name for feature in self.inputs if feature.dtype != "string")

    @property
    def categorical(self) -> tuple[str, ...]:
        """The names of the columns of `categorical`, in order."""
        return tuple(feature.name for feature in self.inputs if feature.dtype == "string")


@dataclass(frozen=True)
class ModelPackage:
    """A verified model package.

    Attributes:
        path: The folder.
        signature: What the model takes and gives.
        provenance: Where the model comes from.
        examples: `inputs`: a few rows, each a dict of all inputs; `outputs`: the score of each row.
        digest: The SHA-256 of `checksums.json`: equal digests are equal packages.
    """

    path: Path
    signature: Signature
    provenance: dict[str, Any]
    examples: dict[str, Any]
    digest: str

    @property
    def onnx(self) -> Path:
        """The file to serve."""
        return self.path / ONNX


def write_package(
    path: str | Path,
    *,
    signature: Signature,
    onnx: bytes,
    native: Mapping[str, bytes],
    examples: Mapping[str, object],
    provenance: Mapping[str, object],
    card: str,
) -> ModelPackage:
    """Writes a model package, whole or not at all, and loads it.

    Args:
        path: The folder to write; replaced when it exists.
        signature: What the model takes and gives.
        onnx: The serialised graph.
        native: File names and contents of the native model, in a safe format.
        examples: See `ModelPackage.examples`.
        provenance: See the module. Must not hold times or places, so that equal models have equal digests.
        card: The model card, Markdown.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    files = {
        **native,
        ONNX: onnx,
        SIGNATURE: as_json(asdict(signature)),
        EXAMPLES: as_json(examples),
        PROVENANCE: as_json(provenance),
        CARD: card.encode(),
    }
    with atomic_dir(path) as scratch:
        for name, content in files.items():
            (scratch / name).write_bytes(content)
        (scratch / CHECKSUMS).write_bytes(as_json({name: sha256_of(scratch / name) for name in files}))
    return load_package(path)


def load_package(path: str | Path) -> ModelPackage:
    """Verifies a model package and reads its description. Nothing else is opened before the checksums are right.

    Raises:
        PackageError: A file differs, is missing or is too many, or the description cannot be read; names the file.
    """
    folder = Path(path)
    _verify(folder)
    try:
        signature = _signature(_json(folder / SIGNATURE))
    except (KeyError, TypeError) as error:
        raise PackageError(f"{folder / SIGNATURE} does not describe a model: {error}", remedy=_REMEDY) from error
    return ModelPackage(
        path=folder,
        signature=signature,
        provenance=_json(folder / PROVENANCE),
        examples=_json(folder / EXAMPLES),
        digest=sha256_of(folder / CHECKSUMS),
    )


def as_json(value: object) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _verify(folder: Path) -> None:
    if not (folder / CHECKSUMS).is_file():
        raise PackageError(f"{folder} is not a model package: it has no {CHECKSUMS}", remedy="Pass an output of train")
    expected = _json(folder / CHECKSUMS)
    for name in sorted(expected):
        if PurePosixPath(name).name != name or name in {"..", CHECKSUMS}:
            raise PackageError(f"{CHECKSUMS} of {folder} names {name!r}", allowed="plain file names", remedy=_REMEDY)
    found = {
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()
    }
    for name in sorted({*expected, *REQUIRED} - found):
        raise PackageError(f"{name} is missing from the model package {folder}", remedy=_REMEDY)
    for name in sorted(found - {*expected, CHECKSUMS}):
        raise PackageError(f"{name} does not belong to the model package {folder}", remedy=_REMEDY)
    for name in sorted({*expected, *REQUIRED}):
        if sha256_of(folder / name) != expected.get(name):
            raise PackageError(f"{name} of the model package {folder} differs from its checksum", remedy=_REMEDY)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise PackageError(f"{path} is not JSON: {error}", remedy=_REMEDY) from error
    if not isinstance(value, dict):
        raise PackageError(f"{path} holds a JSON {type(value).__name__}", allowed="an object", remedy=_REMEDY)
    return value


def _signature(raw: dict[str, Any]) -> Signature:
    inputs = tuple(Feature(**feature) for feature in raw.pop("inputs"))
    classes, entity_keys = tuple(raw.pop("classes")), tuple(raw.pop("entity_keys"))
    return Signature(inputs=inputs, classes=classes, entity_keys=entity_keys, **raw)
