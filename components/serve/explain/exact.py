"""Shapley values in closed form, for linear models, and by walking trees, for ensembles of them (shap's TreeExplainer).

Both mean the same numbers as `explain_sampled` estimates: contributions against the same rows of the background
("interventional" in shap's words). They are of the native model of the package; that it scores as the served one does
is checked with every explanation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fti.common.model_package import ModelPackage, Signature
from fti.common.scoring import as_frame
from fti.serve.explain.space import Explanation, Space

if TYPE_CHECKING:
    import numpy as np

Inputs = Mapping[str, "np.ndarray"]

# All that the models of `train` hold beyond what skops trusts by itself.
_TRUSTED = frozenset(
    ["numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree"]
)
Kind = Literal["linear", "boosting", "forest"]
_KINDS: dict[str, tuple[Kind, Space]] = {
    "LinearRegression": ("linear", "value"),
    "Ridge": ("linear", "value"),
    "LogisticRegression": ("linear", "log-odds"),
    "HistGradientBoostingClassifier": ("boosting", "log-odds"),
    "HistGradientBoostingRegressor": ("boosting", "value"),
    "ExtraTreesClassifier": ("forest", "probability"),
    "ExtraTreesRegressor": ("forest", "value"),
    "RandomForestClassifier": ("forest", "probability"),
    "RandomForestRegressor": ("forest", "value"),
}
_COLUMN_BY_COLUMN = frozenset(
    ["FunctionTransformer", "MissingIndicator", "OrdinalEncoder", "SimpleImputer", "StandardScaler"]
)


class Exact(Protocol):
    """Explains exactly."""

    def explain(self, inputs: Inputs) -> Explanation:
        """Explains rows, as `graph_inputs` gives them."""


@dataclass(frozen=True)
class Native:
    """A native model whose form is known: an encoding, and a model over its columns.

    Attributes:
        kind: `linear`, `boosting` or `forest`.
        space: Where its contributions add up.
        encoder: The fitted ColumnTransformer.
        model: The fitted estimator.
        owners: Of each encoded column, the place of its feature in the signature.
    """

    kind: Kind
    space: Space
    encoder: Any
    model: Any
    owners: "np.ndarray"

    def encoded(self, signature: Signature, inputs: Inputs) -> "np.ndarray":
        """Rows as the model takes them, [N, C]."""
        columns: np.ndarray = self.encoder.transform(as_frame(signature, inputs))
        return columns


def load_native(package: ModelPackage) -> Native | None:
    """Loads the native model of a package where it is one that can be explained exactly.

    Nothing is unpickled: skops builds only types that it or this module names.

    Returns:
        None where there is none, where it holds other types, or where it is of another form.
    """
    path = package.path / "model.skops"
    loaded = _loaded(path) if path.is_file() else None
    steps = [step for _, step in getattr(loaded, "steps", [])]
    if len(steps) != 2 or type(steps[0]).__name__ != "ColumnTransformer":
        return None
    encoder, model = steps
    owners, form = _owners(encoder, package.signature), _KINDS.get(type(model).__name__)
    if owners is None or form is None:
        return None
    # What several columns of a feature do together in a tree cannot be told from their single contributions.
    if form[0] != "linear" and len(set(owners.tolist())) < len(owners):
        return None
    return Native(*form, encoder, model, owners)


class Linear:
    """A linear model: a feature contributes its weights times how far it is from the background's mean.

    Args:
        native: Of kind `linear`.
        signature: The model's.
        background: Rows to compare to.
    """

    def __init__(self, native: Native, signature: Signature, background: Inputs) -> None:
        import numpy as np

        self._native, self._signature = native, signature
        weights = np.atleast_2d(np.asarray(native.model.coef_, dtype=np.float64))
        constant = np.atleast_1d(np.asarray(native.model.intercept_, dtype=np.float64))
        self._weights, self._constant = _centred(weights.T).T, _centred(constant[None])[0]
        self._mean = native.encoded(signature, background).astype(np.float64).mean(axis=0)

    def explain(self, inputs: Inputs) -> Explanation:
        """See `Exact`."""
        import numpy as np

        columns = self._native.encoded(self._signature, inputs).astype(np.float64)
        by_column = (columns - self._mean)[:, :, None] * self._weights.T[None]
        base = self._weights @ self._mean + self._constant
        contributions = _by_feature(by_column, self._native.owners, len(self._signature.inputs))
        return Explanation(self._native.space, base, base + by_column.sum(axis=1), np.asarray(contributions))


class Trees:
    """An ensemble of trees: shap walks each with the row and every row of the background (Lundberg et al., 2020).

    Args:
        native: Of kind `boosting` or `forest`.
        signature: The model's.
        background: Rows to compare to.

    Raises:
        ImportError: shap is not installed.
    """

    def __init__(self, native: Native, signature: Signature, background: Inputs) -> None:
        import shap

        self._native, self._signature = native, signature
        rows = native.encoded(signature, background)
        self._explainer = shap.TreeExplainer(
            native.model, data=rows, feature_perturbation="interventional", model_output="raw"
        )
        self._base = self._mean_score(rows)

    def explain(self, inputs: Inputs) -> Explanation:
        """See `Exact`."""
        import numpy as np

        rows = self._native.encoded(self._signature, inputs)
        found = np.asarray(self._explainer.shap_values(rows, check_additivity=False), dtype=np.float64)
        by_column = self._of_classes(found.reshape(*rows.shape, -1))
        contributions = _by_feature(by_column, self._native.owners, len(self._signature.inputs))
        return Explanation(self._native.space, self._base, self._base + by_column.sum(axis=1), contributions)

    def _mean_score(self, rows: "np.ndarray") -> "np.ndarray":
        import numpy as np

        model = self._native.model
        if self._native.space == "value":
            scores = model.predict(rows)
        elif self._native.kind == "boosting":
            scores = model.decision_function(rows)
        else:
            scores = model.predict_proba(rows)
        return np.asarray(self._of_classes(scores.reshape(len(rows), -1)).mean(axis=0))

    def _of_classes(self, values: "np.ndarray") -> "np.ndarray":
        """Of two classes the second alone; of more, log-odds are centred."""
        if self._native.space == "log-odds":
            return _centred(values)
        return values[..., 1:] if values.shape[-1] == 2 else values


def open_exact(native: Native, signature: Signature, background: Inputs) -> Exact:
    """The exact method for a native model.

    Raises:
        ImportError: shap is not installed, and trees need it.
    """
    kind = Linear if native.kind == "linear" else Trees
    return kind(native, signature, background)


def _loaded(path: Path) -> Any:
    import skops.io

    try:
        if set(skops.io.get_untrusted_types(file=path)) <= _TRUSTED:
            return skops.io.load(path, trusted=sorted(_TRUSTED))
    except Exception:  # skops raises whatever a file of another version leads to
        return None
    return None


def _owners(encoder: Any, signature: Signature) -> "np.ndarray | None":
    """Of each column that an encoder gives, the place of its feature; None where that cannot be told."""
    import numpy as np

    places = {feature.name: place for place, feature in enumerate(signature.inputs)}
    order = [places[name] for name in (*signature.numeric, *signature.categorical)]
    owners: list[int] = []
    for name, transformer, columns in encoder.transformers_:
        given = encoder.output_indices_.get(name)
        if given is None or given.stop == given.start:
            continue
        if not all(isinstance(column, int) for column in columns):
            return None
        found = _widths(transformer, len(columns))
        if found is None or sum(found) != given.stop - given.start or given.start != len(owners):
            return None
        owners += [order[column] for column, width in zip(columns, found, strict=True) for _ in range(width)]
    return np.array(owners)


def _widths(transformer: Any, columns: int) -> list[int] | None:
    """How many columns a transformer makes of each of its own; None where it mixes them."""
    kind = type(transformer).__name__
    if kind == "Pipeline":
        parts = [_widths(step, columns) for _, step in transformer.steps]
        return [1] * columns if all(part == [1] * columns for part in parts) else None
    if kind == "OneHotEncoder" and transformer.drop is None and transformer.min_frequency is None:
        return [len(categories) for categories in transformer.categories_]
    if transformer == "passthrough" or (kind in _COLUMN_BY_COLUMN and getattr(transformer, "func", None) is None):
        return [1] * columns
    return None


def _centred(values: "np.ndarray") -> "np.ndarray":
    """Less their mean over the last axis, the classes, where there are several."""
    import numpy as np

    return values if values.shape[-1] == 1 else np.asarray(values - values.mean(axis=-1, keepdims=True))


def _by_feature(by_column: "np.ndarray", owners: "np.ndarray", features: int) -> "np.ndarray":
    import numpy as np

    summed = np.zeros((len(by_column), features, by_column.shape[2]))
    for column, owner in enumerate(owners.tolist()):
        summed[:, owner] += by_column[:, column]
    return summed
