"""The inputs of a model, arranged as its graph takes them: one matrix of numbers, one of strings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from fti.common.model_package import Signature


class Layout:
    """Where each input of a model stands.

    Args:
        signature: The model's.

    Attributes:
        numeric: The names of the columns of the matrix of numbers, in order.
        categorical: Those of the matrix of strings.
    """

    def __init__(self, signature: "Signature") -> None:
        self.numeric, self.categorical = signature.numeric, signature.categorical
        self.names = tuple(feature.name for feature in signature.inputs)
        self.places = {name: (0, at) for at, name in enumerate(self.numeric)}
        self.places |= {name: (1, at) for at, name in enumerate(self.categorical)}


class Inputs(Mapping[str, "np.ndarray"]):
    """The inputs of N rows: a mapping from each name to its column [N], a view into one of two matrices.

    Args:
        layout: Where each input stands.
        numeric: Float32 [N, n] in C order, NaN where missing; None where the model takes no numbers.
        categorical: Object [N, m] of str, None where missing; None where the model takes no strings.
        holes: Whether a string may be missing.
    """

    __slots__ = ("_layout", "categorical", "holes", "numeric")

    def __init__(
        self,
        layout: Layout,
        numeric: "np.ndarray | None",
        categorical: "np.ndarray | None" = None,
        holes: bool = True,
    ) -> None:
        self._layout, self.numeric, self.categorical, self.holes = layout, numeric, categorical, holes

    def __getitem__(self, name: str) -> "np.ndarray":
        kind, at = self._layout.places[name]
        matrix: Any = self.categorical if kind else self.numeric
        column: np.ndarray = matrix[:, at]
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.names)

    def __len__(self) -> int:
        return len(self._layout.names)

    @property
    def feed(self) -> "dict[str, np.ndarray]":
        """The graph's inputs by name: `numeric`, and `categorical` with "" where missing."""
        feed = {}
        if self.numeric is not None:
            feed["numeric"] = self.numeric
        if self.categorical is not None:
            import numpy as np

            strings = self.categorical
            feed["categorical"] = np.where(strings == None, "", strings) if self.holes else strings  # noqa: E711
        return feed

    @classmethod
    def joined(cls, parts: "Sequence[Inputs]") -> "Inputs":
        """The rows of several, one after the other, all of one layout."""
        import numpy as np

        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        numbers = [part.numeric for part in parts if part.numeric is not None]
        strings = [part.categorical for part in parts if part.categorical is not None]
        return cls(
            first._layout,
            np.concatenate(numbers) if numbers else None,
            np.concatenate(strings) if strings else None,
            any(part.holes for part in parts),
        )
