"""Tag schemes: how the tags of tokens or words say where entities begin and end.

A tag is `O`, outside all entities, or the type of an entity behind the prefix of a scheme:

    scheme  first  inside  last  only   source
    IOB     B-     I-      I-    B-     Ramshaw and Marcus 1995 (IOB1: B- only between two
                                        adjacent entities of a type, otherwise I-)
    IOBES   B-     I-      E-    S-     (without B- and S-: IOE1 and IOE2)
    BILOU   B-     I-      L-    U-     Ratinov and Roth 2009
    BMES    B-     M-      E-    S-
    IO      without prefixes: tags such as `person`, or parts of speech

Every sequence of tags has a reading, also one that no annotator would write: an entity begins at
a tag that is not `O` if it is B-, S- or U-, or if the tag before it is `O`, E-, L-, S- or U- or of
another type; it ends before the next `O` and before the next entity. For IOB1, IOB2 and IOBES these
are the entities of seqeval's default mode and of conlleval (Tjong Kim Sang and De Meulder 2003).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

OUTSIDE = "O"
PREFIXES = {"IOB": "BI", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "IO": ""}
_FIRST, _LAST = set("BSU"), set("ELSU")  # the prefixes that always begin or end an entity
_TAG = re.compile(r"([BIMELSU])-(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entity:
    """The words or tokens [start, end) of a sequence, and the type of what they name."""

    type: str
    start: int
    end: int


class TagScheme:
    """The scheme of a set of labels, and the entities of sequences of them.

    It is the first scheme of `PREFIXES` that contains the prefixes of all labels. They count as
    prefixes only if B- or I- is among them; otherwise, and if no scheme contains them, the scheme
    is IO. A label without a prefix among labels with one, such as `X`, is read as I-.

    Args:
        labels: the names of the classes.

    Attributes:
        name: "IOB" (1, 2 or only I-), "IOBES", "BILOU", "BMES" or "IO".
        prefixes: the letters before the hyphen; empty for IO.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        found = {match[1] for label in labels if (match := _TAG.fullmatch(label))}
        fitting = [name for name, prefixes in PREFIXES.items() if found <= set(prefixes)]
        self.name = fitting[0] if fitting and found & {"B", "I"} else "IO"
        self.prefixes = PREFIXES[self.name]

    def split(self, tag: str) -> tuple[str, str]:
        """The prefix of a tag that is not `O`, without its hyphen, and the type.

        The prefix is empty if the tag has none that belongs to the scheme.
        """
        match = _TAG.fullmatch(tag)
        return (match[1], match[2]) if match and match[1] in self.prefixes else ("", tag)

    def begins_entity(self, tag: str, tag_before: str) -> bool:
        """Whether an entity begins at a tag, given the tag before it."""
        if tag == OUTSIDE or tag_before == OUTSIDE:
            return tag != OUTSIDE
        (prefix, entity_type), (prefix_before, type_before) = map(self.split, (tag, tag_before))
        return prefix in _FIRST or prefix_before in _LAST or entity_type != type_before

    def find_entities(self, tags: Sequence[str]) -> list[Entity]:
        """The entities of a sequence, in order."""
        begins = [self.begins_entity(tag, before) for before, tag in pairwise([OUTSIDE, *tags])]
        stops = [tag == OUTSIDE or begin for tag, begin in zip(tags, begins, strict=True)] + [True]
        return [
            Entity(self.split(tags[start])[1], start, stops.index(True, start + 1))
            for start, begin in enumerate(begins)
            if begin
        ]
