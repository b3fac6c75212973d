"""The KFP face of validate."""

from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from fti.step import step


@step
def validate(
    raw: Input[Dataset],
    contract: str,
    valid: Output[Dataset],
    rejected: Output[Dataset],
    report: Output[HTML],
    metrics: Output[Metrics],
) -> str:
    """Holds every row of a table against its data contract; rows that break it are set aside, with the reasons.

    Never fails for what is wrong with the data, for KFP keeps no outputs of a step that failed: let `require` follow,
    which stops the run where the table is refused.

    Args:
        raw: The table, as Parquet.
        contract: Path or URI of the data contract, YAML.
        valid: Rows that keep the contract, with exactly its types.
        rejected: Rows that break it, as they came, with a column "reasons".
        report: Violations with examples, missing values, and the distribution of every column.
        metrics: Rows, rejected rows, their share, and rows that break each of the worst rules.

    Returns:
        `accepted`; or, beyond the share that the contract tolerates, why not, with the worst rules.
    """
    from fti.validate.logic import validate as run

    table = raw.metadata.get("table", raw.name)
    verdict = run(raw.path, contract, valid.path, rejected.path, report.path, table=table)
    for artifact, rows in ((valid, verdict.valid), (rejected, verdict.rejected)):
        artifact.metadata.update({"table": table, "rows": rows})
    for name, value in verdict.metrics.items():
        metrics.log_metric(name, value)
    return verdict.sentence
