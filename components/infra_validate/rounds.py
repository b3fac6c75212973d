"""Which rows can be replayed at once: an online store holds one value for a key, and so one moment of its history."""

from collections.abc import Hashable, Sequence


def rounds(keys: Sequence[Sequence[Hashable]], times: Sequence[Hashable]) -> list[list[int]]:
    """Puts rows into as few rounds as a first fit finds.

    Args:
        keys: [N]: the keys that each row looks up.
        times: [N]: the moment at which it does.

    Returns:
        Every row once; rows of a round that share a key have the same time.
    """
    found: list[list[int]] = []
    held: list[dict[Hashable, Hashable]] = []
    for row, (its, time) in enumerate(zip(keys, times, strict=True)):
        place = next((at for at, taken in enumerate(held) if all(taken.get(key, time) == time for key in its)), None)
        if place is None:
            place = len(held)
            held.append({})
            found.append([])
        found[place].append(row)
        held[place].update(dict.fromkeys(its, time))
    return found
