"""The KFP face of ingest."""

from typing import List

from kfp.dsl import Dataset, Output

from fti.step import step


@step
def ingest(
    source: str,
    table: str,
    raw: Output[Dataset],
    query: str = "",
    null_values: List[str] = [""],
) -> None:
    """Reads any source into one typed Parquet file, in bounded memory.

    CSV, JSON lines and Parquet, plain, gzip or zip; or a SQL query. Types are found over all rows, so that a late
    value cannot break a column. Nothing is written unless everything could be read.

    Args:
        source: A file or glob, by path, s3://, gs:// or http(s)://; or the SQLAlchemy URL of a database, in which
            ${NAME} stands for an environment variable of the step, such as one filled from a Kubernetes secret.
        table: Name of the table; later steps know it by this name.
        raw: The rows, as Parquet. Its metadata hold table, source, rows, bytes, schema and digest.
        query: The SQL query, where the source is a database.
        null_values: Texts in CSV that mean a missing value, such as "" and "NA".
    """
    from dataclasses import asdict

    from fti.ingest.logic import ingest as run

    raw.metadata.update(asdict(run(source, table, raw.path, query, null_values)))
