"""What a validation found, and whether a pipeline may go on with it."""

from dataclasses import dataclass

from fti.common.errors import RejectedDataError
from fti.validate.engine import Broken

_WORST = 5  # rules named in an error
_METRICS = 20  # rules with a metric of their own


@dataclass(frozen=True)
class Verdict:
    """What a validation found.

    Attributes:
        table: The table's name.
        rows: Rows received.
        rejected: Rows that break a rule.
        tolerated: The share of rows that may be rejected.
        broken: Every rule and how many rows break it, the worst first.
        problems: What is wrong with the table as a whole, in sentences; empty when it is accepted.
    """

    table: str
    rows: int
    rejected: int
    tolerated: float
    broken: tuple[Broken, ...]
    problems: tuple[str, ...]

    @property
    def valid(self) -> int:
        """Rows that keep all rules."""
        return self.rows - self.rejected

    @property
    def reject_share(self) -> float:
        """Share of rows rejected."""
        return self.rejected / self.rows if self.rows else 0.0

    @property
    def accepted(self) -> bool:
        """Whether the table keeps its contract, within its tolerance."""
        return not self.problems

    @property
    def metrics(self) -> dict[str, float]:
        """The figures for a metrics page: totals, and the worst rules by name."""
        worst = {f"broken {b.rule.name}": float(b.rows) for b in self.broken[:_METRICS] if b.rows}
        return {"rows": float(self.rows), "rejected": float(self.rejected), "reject_share": self.reject_share, **worst}

    @property
    def sentence(self) -> str:
        """`accepted`, or why not: what the step `require` reads."""
        return str(self._refusal()) if self.problems else "accepted"

    def require_accepted(self) -> None:
        """Stops whoever goes on with the table.

        Raises:
            RejectedDataError: The table breaks its contract beyond tolerance; names the worst rules.
        """
        if self.problems:
            raise self._refusal()

    def _refusal(self) -> RejectedDataError:
        worst = ", ".join(f"{b.rule.name} ({b.rows:,})" for b in self.broken[:_WORST] if b.rows)
        return RejectedDataError(
            f"{self.table or 'the table'} breaks its contract: {'; '.join(self.problems)}"
            + (f". Worst rules, with rows: {worst}" if worst else ""),
            remedy="See the data report and the rejected rows; mend the data, or the contract",
        )
