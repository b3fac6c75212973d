"""How a rollout ended that could not write its own last word: killed in its last instant, or ended by hand."""

from fti.common.errors import BusyError, FtiError
from fti.common.inference_service import Service, read_service
from fti.common.settings import Settings
from fti.rollout.archive import archive_of, check_shared
from fti.rollout.journal import described, user
from fti.rollout.record import OPEN, PROMOTED, ROLLED_BACK, SUPERSEDED, Record, last_record, newest_record
from fti.rollout.report import write_report

_ANOTHER = "another model or share was pushed, or the canary taken away"
_UNSIGNED = {PROMOTED: "somebody promoted it by hand", ROLLED_BACK: "somebody took it back by hand"}
_SIGNED = {PROMOTED: "promoted by hand", ROLLED_BACK: "taken back by hand"}


def settle(record: Record, service: Service | None, who: str) -> None:
    """Adds the last word to a rollout whose traffic is not as it left it.

    What it had set out to do is its own decision, as it was made; anything else was done by hand, nobody says by whom.

    Args:
        record: One that has not ended.
        service: As it is now.
        who: Who found it so.
    """
    phase = _fate(record, service)
    if phase == record.intent.get("decision"):
        record.carry_out()
    elif phase == SUPERSEDED:
        record.end(described(record, phase, _ANOTHER, None), who)
    else:
        record.end(described(record, phase, _UNSIGNED[phase], None, by_hand=True), who)


def ended_record(service: Service, settings: Settings, who: str) -> Record | None:
    """The newest rollout of a service that has no canary, if what it has led to is still so; with its last word.

    Args:
        service: As it is now.
        settings: Where records are kept.
        who: Who asks, for the last word where it is missing.

    Raises:
        ServingError: The record is damaged.
    """
    record = newest_record(service.name, settings)
    if record is None or (fate := _fate(record, service)) == SUPERSEDED:
        return None
    if record.phase in OPEN:
        settle(record, service, who)
    return record if record.phase in {fate, SUPERSEDED} else None


def settled_record(name: str, canary: str, settings: Settings, who: str) -> Record | None:
    """The newest rollout of a canary that is none any more, with its last word; None where there was none.

    Args:
        name: The service.
        canary: Digest of the canary's package.
        settings: Where records are kept.
        who: Who asks, for the last word where it is missing.

    Raises:
        BusyError: The rollout goes on.
        ServingError: The record is damaged.
    """
    record = last_record(name, canary, settings)
    if record is None or record.phase not in OPEN:
        return record
    with archive_of(name, settings).alone(who):
        record = last_record(name, canary, settings)
        if record and record.phase in OPEN:
            settle(record, read_service(name, settings), who)
            record.save(settings)
    return record


def note_by_hand(name: str, before: Service | None, settings: Settings, who: str = "") -> str:
    """Signs, in the record of a service's open rollout, that a person ended it; call it when the traffic was moved.

    Nothing fails here: the promotion or rollback is done, whatever becomes of the record.

    Args:
        name: The service.
        before: As it was before the traffic was moved.
        settings: Where records are kept.
        who: Who did it; empty: the user of this process.

    Returns:
        What to tell the person; empty where no rollout was open.
    """
    try:
        record = _noted(name, before, settings, who or user())
        return f"Its rollout says so: {write_report(record, settings)}" if record else ""
    except BusyError:
        return "Its rollout goes on: that ends it, and it says so by itself, but not who did it."
    except (FtiError, OSError) as error:
        return f"If a rollout was open, its record does not say so: {error}"


def _noted(name: str, before: Service | None, settings: Settings, who: str) -> Record | None:
    canary = before.canary if before else None
    if canary:
        check_shared(canary.storage_uri, settings)
    record = newest_record(name, settings)
    if record is None or record.phase not in OPEN:
        return None
    with archive_of(name, settings).alone(who):
        record, after = newest_record(name, settings), read_service(name, settings)
        if record is None or record.phase not in OPEN or (phase := _fate(record, after)) == SUPERSEDED:
            return None
        if before is None or canary is None:  # said again: who moved the traffic then is not known now
            settle(record, after, who)
        elif (canary.digest, before.stable.digest) == (record.canary, record.stable):
            record.end(described(record, phase, _SIGNED[phase], None, by_hand=True), who)
        else:
            return None
        record.save(settings)
        return record


def _fate(record: Record, service: Service | None) -> str:
    """The phase that fits what became of a rollout's canary, whoever did it."""
    if service is None or service.canary:
        return SUPERSEDED
    return {record.canary: PROMOTED, record.stable: ROLLED_BACK}.get(service.stable.digest, SUPERSEDED)
