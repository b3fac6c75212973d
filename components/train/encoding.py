"""How numbers and text become what scikit-learn fits: encoding and imputation are part of the model.

Numbers arrive as float32 (as serving sends them) with NaN for missing; text as categories, "" for missing. A category
that is rare, or was never seen, counts as unknown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Task
from fti.train.data import TrainingData

if TYPE_CHECKING:
    import numpy as np

RAREST = 20  # rows that a category needs to be told apart
MOST_CATEGORIES = 250


@dataclass(frozen=True)
class Context:
    """What the maker of an estimator may want to know.

    Attributes:
        task: `binary`, `multiclass` or `regression`. Classes arrive as codes 0…k-1.
        numeric: Positions of the numeric columns (float32, NaN for missing) that hold any number.
        categorical: Positions of the text columns ("" for missing).
        categories: Of each text column, the values worth telling apart, most frequent first.
        seed: For every `random_state`.
    """

    task: Task
    numeric: tuple[int, ...]
    categorical: tuple[int, ...]
    categories: tuple[tuple[str, ...], ...]
    seed: int

    def linear_encoder(self) -> Any:
        """The encoding for models that add up features, unfitted.

        Numbers are imputed and scaled, missing ones marked, and each category becomes a column.
        """
        from sklearn.impute import MissingIndicator, SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        categories = [sorted(column) for column in self.categories]
        return self._columns(
            [
                ("numeric", make_pipeline(SimpleImputer(), StandardScaler())),
                ("missing", MissingIndicator(features="all")),
            ],
            OneHotEncoder(categories=_arrays(categories), handle_unknown="ignore", sparse_output=False),
        )

    def tree_encoder(self, *, impute: bool = False) -> Any:
        """The encoding for trees, unfitted: categories become numbers by frequency, unknown ones -1.

        On the reference problem this was no worse than one-hot columns or target means (test AUC 0.825, 0.824, 0.824),
        and one-hot took six times as long.

        Args:
            impute: Whether missing numbers become the median; else they stay NaN.
        """
        import numpy as np
        from sklearn.impute import SimpleImputer
        from sklearn.preprocessing import OrdinalEncoder

        numbers = SimpleImputer(strategy="median") if impute else "passthrough"
        text = OrdinalEncoder(
            categories=_arrays(self.categories),
            handle_unknown="use_encoded_value",
            unknown_value=-1,
            dtype=np.float32,
        )
        return self._columns([("numeric", numbers)], text)

    def _columns(self, numeric: Sequence[tuple[str, Any]], text: Any) -> Any:
        from sklearn.compose import ColumnTransformer

        parts = [(name, transformer, list(self.numeric)) for name, transformer in numeric if self.numeric]
        if self.categorical:
            parts.append(("categorical", text, list(self.categorical)))
        return ColumnTransformer(parts, sparse_threshold=0)


def context_of(data: TrainingData, seed: int) -> Context:
    """Describes training data to the maker of an estimator."""
    import numpy as np

    numbers, texts = len(data.signature.numeric), len(data.signature.categorical)
    categories = tuple(common_categories(data.train.feed["categorical"][:, column]) for column in range(texts))
    return Context(
        task=data.signature.task,
        numeric=tuple(column for column in range(numbers) if not np.isnan(data.train.feed["numeric"][:, column]).all()),
        categorical=tuple(range(numbers, numbers + texts)),
        categories=categories,
        seed=seed,
    )


def common_categories(column: "np.ndarray") -> tuple[str, ...]:
    """The values of a text column [N] that are worth telling apart, most frequent first; at least one."""
    counts = sorted(Counter(column.tolist()).items(), key=lambda item: (-item[1], item[0]))
    return tuple(value for value, count in counts[:MOST_CATEGORIES] if count >= RAREST) or (counts[0][0],)


def _arrays(categories: Sequence[Sequence[str]]) -> "list[np.ndarray]":
    import numpy as np

    return [np.array(column, dtype=object) for column in categories]
