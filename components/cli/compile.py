"""`fti compile`: every pipeline and component as YAML."""

from pathlib import Path

import click


@click.command("compile")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("compiled"),
    show_default=True,
    help="Folder to write into.",
)
@click.option("--in-place", is_flag=True, help="Also rewrite components/*/component.yaml of a checkout.")
def compile_command(output: Path, in_place: bool) -> None:
    """Write every pipeline and component as YAML for Kubeflow.

    The steps' image is named by FTI_IMAGE, and else kfp-fti/steps:VERSION. The same code gives the same bytes.
    Upload `<output>/pipelines/*.yaml` in the Kubeflow UI; load `<output>/components/*.yaml` with
    kfp.components.load_component_from_file in pipelines of your own.
    """
    from fti.compilation import compile_all, component_folders

    for path in compile_all(output):
        click.echo(path)
    if in_place:
        for path in component_folders():
            click.echo(path)
