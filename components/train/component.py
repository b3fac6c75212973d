"""The KFP face of training."""

from typing import Any, Dict, List

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from fti.step import training_step


@training_step
def train(
    train: Input[Dataset],
    validation: Input[Dataset],
    algorithm: str,
    model: Output[Model],
    metrics: Output[Metrics],
    hyperparameters: Dict[str, Any] = {},
    features: List[str] = [],
    label: str = "",
    task: str = "auto",
    name: str = "model",
    seed: int = 0,
) -> None:
    """Trains a model and writes it as a model package: an ONNX graph to serve, the native model, and their papers.

    Imputation, scaling and encoding are inside the graph. The same data, parameters and seed give the same digest. A
    torch module that has no ONNX form is packaged as a program of torch's operators instead.

    Args:
        train: The table to fit, as `retrieve` writes it.
        validation: The table to choose by: when to stop, and the threshold of a binary model (best F1).
        algorithm: `logistic_regression`, `linear_regression`, `hist_gradient_boosting`, `random_forest`, `mlp`, or
            `module:function`, which returns a scikit-learn estimator or a torch module of your own.
        model: The model package, a folder.
        metrics: Validation metrics, rows and seconds.
        hyperparameters: Of the algorithm; a wrong name is answered with the right ones.
        features: Names of the inputs; `request` stands for all that come with the request; empty means all.
        label: The column to predict; empty means the one that the table names.
        task: `binary`, `multiclass`, `regression`, or `auto`, which follows the label.
        name: The model's name.
        seed: For everything random.
    """
    from fti.train.logic import train_model

    training = train_model(
        train.path,
        validation.path,
        model.path,
        algorithm=algorithm,
        hyperparameters=hyperparameters,
        features=features,
        label=label,
        task=task,
        name=name,
        seed=seed,
    )
    model.metadata.update(
        {"digest": training.package.digest, "task": training.package.signature.task, "algorithm": algorithm}
    )
    for metric, value in training.metrics.items():
        metrics.log_metric(metric, value)
    metrics.log_metric("train_rows", training.rows["train"])
    metrics.log_metric("validation_rows", training.rows["validation"])
    metrics.log_metric("seconds", round(training.seconds, 2))
