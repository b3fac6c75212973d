"""The KFP face of require."""

from fti.step import step


@step
def require(verdict: str) -> None:
    """Fails the run unless the verdict of the step before is `accepted`.

    KFP keeps no outputs of a step that fails. So a step that judges succeeds, keeps its report, and says its verdict;
    this one stops the run with it.

    Args:
        verdict: What `validate` returns: `accepted`, or why not.
    """
    from fti.common.errors import RejectedDataError

    if verdict != "accepted":
        raise RejectedDataError(verdict)
