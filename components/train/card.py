"""The model card: what a model is, for the people who meet it (Mitchell et al., 2019)."""

from collections.abc import Mapping
from typing import Any

from fti.common.model_package import Signature


def model_card(signature: Signature, provenance: Mapping[str, Any]) -> str:
    """Writes the card in Markdown.

    Args:
        signature: The model's.
        provenance: As in the package.
    """
    return "\n".join(
        [
            f"# {signature.name}",
            "",
            _purpose(signature),
            "",
            "## How good it is",
            "",
            f"On {provenance['data']['validation']['rows']:,} validation rows, which also chose when to stop"
            " and the threshold; an evaluation on unseen rows is the fairer judge.",
            "",
            *_table("Metric", "Value", {name: f"{value:.4f}" for name, value in provenance["metrics"].items()}),
            "",
            "## How it was made",
            "",
            f"`{provenance['algorithm']}` on {provenance['data']['train']['rows']:,} rows, seed {provenance['seed']}.",
            "",
            *_table("Hyperparameter", "Value", provenance["hyperparameters"]),
            "",
            *_table("Data", "SHA-256", {name: f"`{part['sha256']}`" for name, part in provenance["data"].items()}),
            "",
            *_table("Software", "Version", provenance["versions"]),
            "",
            "## What it takes",
            "",
            "| Input | Type | From |",
            "|---|---|---|",
            *(f"| {feature.name} | {feature.dtype} | {feature.source} |" for feature in signature.inputs),
            "",
            "A missing value is allowed everywhere. A category that is rare or was never seen counts as unknown.",
            "",
        ]
    )


def _purpose(signature: Signature) -> str:
    if signature.task == "regression":
        return f"Predicts the value of `{signature.label}`."
    if signature.task == "multiclass":
        return f"Predicts `{signature.label}` as one of {', '.join(f'`{value}`' for value in signature.classes)}."
    return (
        f"Predicts the probability that `{signature.label}` is `{signature.classes[1]}` rather than"
        f" `{signature.classes[0]}`, and says `{signature.classes[1]}` from {signature.threshold:.4f} on:"
        " the threshold with the best F1 on the validation rows."
    )


def _table(name: str, value: str, rows: Mapping[str, object]) -> list[str]:
    return [f"| {name} | {value} |", "|---|---|", *(f"| {key} | {item} |" for key, item in rows.items())]
