"""Model packages: one folder that holds a model, what it expects, where it comes from, and proof that it is whole.

    model.onnx          what is served: inputs `numeric` and `categorical`, output `probability` or `value`
    model.skops         the native model (scikit-learn), or
    model.safetensors   its weights, with `model.json`, its shape (torch)
    program.json        in place of all these, with `program.safetensors`, its weights: what is served of a torch model
                        that has no ONNX form (see `fti.common.torch_backend`)
    signature.json      names, types and order of inputs and outputs
    examples.json       a few rows and the answers that belong to them
    background.json     rows to which explanations compare, by column; absent in packages that were written by hand
    provenance.json     data digests, algorithm, hyperparameters, seed, versions, metrics
    card.md             the same, for people
    checksums.json      the SHA-256 of every other file; its own SHA-256 is the package's digest

No file in a package is ever executed or unpickled. Nothing in it depends on when or where it was made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fti.common.errors import PackageError
from fti.common.files import atomic_dir, sha256_of
from fti.common.tables import Feature

Task = Literal["binary", "multiclass", "regression"]
Label = str | int | bool | float

ONNX = "model.onnx"
PROGRAM, WEIGHTS = "program.json", "program.safetensors"
SIGNATURE = "signature.json"
EXAMPLES = "examples.json"
BACKGROUND = "background.json"
PROVENANCE = "provenance.json"
CARD = "card.md"
CHECKSUMS = "checksums.json"
REQUIRED = (SIGNATURE, EXAMPLES, PROVENANCE, CARD)
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

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """The names of the columns of `numeric`, in order."""
        return tuple(feature.name for feature in self.inputs if feature.dtype != "string")

    @cached_property
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
        """The graph to serve; absent where torch serves."""
        return self.path / ONNX

    @property
    def served(self) -> tuple[str, ...]:
        """The names of the files that make up what is served: the graph, or the torch program and its weights."""
        return (ONNX,) if self.onnx.is_file() else (PROGRAM, WEIGHTS)

    def background(self) -> dict[str, list[Any]]:
        """Rows of the training data, each input a list of one value a row: what explanations compare to.

        Raises:
            PackageError: The package has none, or other columns than its signature.
        """
        path = self.path / BACKGROUND
        if not path.is_file():
            raise PackageError(f"the model package {self.path} has no {BACKGROUND}", remedy="Train the model again")
        rows = _json(path)
        if rows.keys() != {feature.name for feature in self.signature.inputs}:
            raise PackageError(f"{path} has other columns than the signature", remedy=_REMEDY)
        return rows


def write_package(
    path: str | Path,
    *,
    signature: Signature,
    native: Mapping[str, bytes],
    examples: Mapping[str, object],
    provenance: Mapping[str, object],
    card: str,
    onnx: bytes = b"",
    background: Mapping[str, list[object]] | None = None,
) -> ModelPackage:
    """Writes a model package, whole or not at all, and loads it.

    Args:
        path: The folder to write; replaced when it exists.
        signature: What the model takes and gives.
        native: File names and contents of the native model, in a safe format.
        examples: See `ModelPackage.examples`.
        provenance: See the module. Must not hold times or places, so that equal models have equal digests.
        card: The model card, Markdown.
        onnx: The serialised graph; empty where a torch program among `native` is what is served.
        background: See `ModelPackage.background`.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    files = {
        **native,
        **({ONNX: onnx} if onnx else {}),
        **({BACKGROUND: json.dumps(background, sort_keys=True, allow_nan=False).encode()} if background else {}),
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
    required = {*REQUIRED, *((PROGRAM, WEIGHTS) if PROGRAM in expected else (ONNX,))}
    if {ONNX, PROGRAM} <= expected.keys():
        raise PackageError(f"{folder} holds both {ONNX} and {PROGRAM}", allowed="one to serve", remedy=_REMEDY)
    for name in sorted({*expected, *required} - found):
        raise PackageError(f"{name} is missing from the model package {folder}", remedy=_REMEDY)
    for name in sorted(found - {*expected, CHECKSUMS}):
        raise PackageError(f"{name} does not belong to the model package {folder}", remedy=_REMEDY)
    for name in sorted({*expected, *required}):
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
