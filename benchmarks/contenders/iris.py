"""The model that all contenders serve: a logistic regression over the iris that come with scikit-learn.

`python iris.py FILE` writes it with joblib: each contender's own scikit-learn reads what it wrote itself.
"""

import sys
from typing import Any

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def fitted() -> tuple[Any, Any]:
    """The model, and what it was fitted to, [150, 4]."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    data, labels = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=1000).fit(data, labels), data


if __name__ == "__main__":
    import joblib

    joblib.dump(fitted()[0], sys.argv[1])
