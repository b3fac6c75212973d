"""`fti compile`: every pipeline and component as YAML."""

from pathlib import Path

import click

from fti.cli.cluster import resources_option
from fti.pipelines import PIPELINES


@click.command("compile")
@click.argument("pipelines", nargs=-1, type=click.Choice(PIPELINES), metavar="[PIPELINE]...")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("compiled"),
    show_default=True,
    help="Folder to write into.",
)
@resources_option
@click.option("--in-place", is_flag=True, help="Also rewrite components/*/component.yaml of a checkout.")
def compile_command(pipelines: tuple[str, ...], output: Path, resources: str | None, in_place: bool) -> None:
    """Write every pipeline and component, or only the PIPELINEs named, as YAML for Kubeflow.

    The steps' image is named by FTI_IMAGE, and else kfp-fti/steps:VERSION. The same code gives the same bytes.
    Upload `<output>/pipelines/*.yaml` with `fti upload` or in the Kubeflow UI; load `<output>/components/*.yaml` with
    kfp.components.load_component_from_file in pipelines of your own.
    """
    from fti.compilation import compile_all, compile_pipelines, component_folders
    from fti.kubeflow.profile import profile_named

    profile = profile_named(resources) if resources else None
    if pipelines or profile:
        written = compile_pipelines(output, pipelines or PIPELINES, profile)
    else:
        written = compile_all(output)
    for path in written + (component_folders() if in_place else []):
        click.echo(path)
