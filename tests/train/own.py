"""Estimators as a user writes them."""

from sklearn.ensemble import ExtraTreesClassifier
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline

NUMBER = 3


def extra_trees(hyperparameters, context):
    """A good one."""
    model = ExtraTreesClassifier(**hyperparameters, random_state=context.seed)
    return Pipeline([("encode", context.tree_encoder(impute=True)), ("model", model)])


def no_estimator(hyperparameters, context):
    """Not even an estimator."""
    return LocalOutlierFactor()


class Opaque(ExtraTreesClassifier):
    """One that skl2onnx has never heard of."""


def unexportable(hyperparameters, context):
    """Trains, but has no ONNX form."""
    return Pipeline([("encode", context.tree_encoder(impute=True)), ("model", Opaque(n_estimators=3))])


def failing(hyperparameters, context):
    """Breaks."""
    raise RuntimeError("out of luck")
