"""What tags of words say about entities: BIO2, BIOES and BILOU, IOB1 on the way in, and tags of no scheme at all."""

from collections.abc import Collection, Sequence

OUTSIDE = "O"
"""The tag of words of no entity."""
_PARTS = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S"}
"""Parts of an entity, and what seqeval calls them; BILOU calls E and S L and U."""
_ENDS = ("E-", "S-", "L-", "U-")
"""How tags begin that only BIOES and BILOU have."""


def entity_type(tag: str) -> str:
    """The type of entity that a tag belongs to; "" outside. A tag of no scheme is a type."""
    if tag == OUTSIDE:
        return ""
    return tag[2:] if tag[1:2] == "-" and tag[0] in _PARTS else tag


def entity_types(names: Sequence[str]) -> list[str]:
    """The types of entities in the order of their first tags."""
    return list(dict.fromkeys(filter(None, map(entity_type, names))))


def entities(numbers: Sequence[int], names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first and last word of each entity.

    Where tags say which word is the last (BIOES, BILOU), only what begins and ends as they say is an entity, as in
    seqeval's strict mode. Others are read as leniently as the script conlleval does. Of tags of no scheme beside "O"
    each run is an entity; where there is no "O", as of parts of speech, each word is.

    Args:
        numbers: The tags of a row's words.
        names: Of all tags.
    """
    from seqeval.metrics.sequence_labeling import get_entities  # takes scikit-learn with it, for seconds

    alone = "I" if OUTSIDE in names else "S"
    tags = [_seqevals(names[number], alone) for number in numbers]
    if any(name.startswith(_ENDS) for name in names):
        return _whole_entities(tags)
    return [(kind, first, last) for kind, first, last in get_entities(tags)]


def _whole_entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """A word tagged S, or B, any I and E of one type."""
    found, begun, first = [], "", 0
    for place, tag in enumerate(tags):
        part, kind = tag[0], tag[2:]
        if part in "BS":
            begun, first = kind, place
        if part in "ES" and kind == begun:
            found.append((kind, first, place))
        if part not in "BI" or kind != begun:
            begun = ""
    return found


def _seqevals(tag: str, alone: str) -> str:
    """A tag as seqeval reads it."""
    found = entity_type(tag)
    return OUTSIDE if not found else f"{alone if found == tag else _PARTS[tag[0]]}-{found}"


def bio2(tags: Sequence[str], known: Collection[str]) -> list[str]:
    """Tags of IOB1, where I- begins an entity too, with B- at every beginning.

    Args:
        tags: Of a row's words. Where some end an entity they are no IOB1, and stay.
        known: All tags there may be, if that was said: I- stays where it has no such B-.
    """
    if any(tag.startswith(_ENDS) for tag in tags):
        return list(tags)
    begun = []
    for before, tag in zip([OUTSIDE, *tags], tags, strict=False):
        begin = "B" + tag[1:]
        begins = tag.startswith("I-") and before not in (tag, begin) and (not known or begin in known)
        begun.append(begin if begins else tag)
    return begun
