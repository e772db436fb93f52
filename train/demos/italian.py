"""Italian made by a grammar: a text to learn agreement from, and sentences that were never in it.

A language model trained on nothing but this must work out gender, number, person and which first
sounds take `lo`: the words are opaque to it, each is one token. What is measured is generalisation,
not memory. A fixed eighth of the *combinations* of a controller with what agrees with it (ragazza +
stanco, Laura + leggere presente, zaino + definite article) never appears in the training text, and
only these are asked about.

    for sentence in sentences(3, seed=0, held_out=True):
        for agreement in sentence.agreements:
            right = sentence.text[agreement.start : agreement.end]  # one of agreement.forms

What is asked is decided by the rest of the sentence:

- the gender of io, tu, noi, voi, loro is not visible, so neither a participle nor a four-form
  adjective of theirs counts (nor of "io e Laura", but "io e Marco" is masculine);
- no article counts before a noun that has one form for both numbers (il film, i film);
- the `forms` of an article are those of its own kind (il lo la i gli le; un uno una dei degli
  delle), never l' or un', which are written together with the noun: where Italian has these, they
  are neither asked about nor offered;
- no form counts at the very start: a byte-level tokenizer has another token for a word without the
  space before it. For the same reason sentences begin in lower case, unless with a name, and mostly
  with an adverb or a conjunction.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

from train.demos.italian_grammar import (
    ARTICLES,
    CONDITIONAL_PERIOD,
    Agreement,
    Pair,
    Sentence,
    draw,
)
from train.demos.italian_lexicon import LEMMA, SIMPLE_TENSES

__all__ = [
    "HELD_OUT_SUBJECTS",
    "Agreement",
    "Pair",
    "Sentence",
    "is_held_out",
    "sentences",
    "unigram_guess",
    "word_counts",
    "write_corpus",
]

# In the training text these are subjects of everything but the conditional period.
HELD_OUT_SUBJECTS = frozenset(
    {"Giulia", "Pietro", "zio", "cuoca", "nonna", "medico"}
    | {"attori", "bambine", "studentesse", "cugini"}
)
_HELD_OUT_ONE_IN = 8


def is_held_out(pair: Pair) -> bool:
    """Whether the training text lacks this combination, whatever the seed and the machine."""
    controller, target = pair
    if target in ARTICLES:
        # At most one of the two: the other, and quello, tell which articles the noun takes.
        return _bucket(controller, "articolo") == ARTICLES.index(target)
    tense = target.partition(" ")[2]
    if tense in CONDITIONAL_PERIOD and HELD_OUT_SUBJECTS & set(controller.split(" e ")):
        return True
    if tense in SIMPLE_TENSES and controller in ("io", "tu", "noi", "voi"):
        return False  # only io says "leggo": without the pair the form itself would never be seen
    if not tense:  # an adjective: held out with the noun in both numbers
        controller = LEMMA.get(controller, controller)
    return _bucket(controller, target) == 0


@cache
def _bucket(controller: str, target: str) -> int:
    """One of `_HELD_OUT_ONE_IN`; not by hash(), which Python salts anew in every process."""
    digest = hashlib.sha256(f"{controller}|{target}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT_ONE_IN


def sentences(count: int, *, seed: int, held_out: bool) -> Iterator[Sentence]:
    """`count` sentences with no held-out pair; or, if `held_out`, each with one to ask about."""
    random = Random(seed)
    while count > 0:
        sentence = draw(random)
        asked = tuple(a for a in sentence.agreements if is_held_out(a.pair))
        if held_out and asked:
            yield replace(sentence, agreements=asked)
        elif not held_out and not any(map(is_held_out, sentence.pairs)):
            yield sentence
        else:
            continue
        count -= 1


def write_corpus(path: str | Path, count: int, seed: int) -> None:
    """Write `count` training sentences, all different, one a line; the same bytes everywhere.

    Raises ValueError if the draws repeat one another so much that `count` is out of reach.
    """
    draws = sentences(2 * count + 100, seed=seed, held_out=False)
    lines: dict[str, None] = {}  # a set that keeps the order, and so the file, from run to run
    while len(lines) < count:
        sentence = next(draws, None)
        if sentence is None:
            raise ValueError(
                f"count = {count:,} is more than the grammar gives without repeating itself: "
                f"{len(lines):,} different sentences in {2 * count + 100:,} draws"
            )
        lines[sentence.text] = None
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs; an elided article (l', un') is a word of its own."""
    return Counter(word for text in texts for word in re.findall(r"[^\W\d_]+'?", text))


def unigram_guess(agreement: Agreement, counts: Mapping[str, int]) -> str:
    """The form most frequent in the training text: the best guess without the sentence."""
    return max(agreement.forms, key=lambda form: counts.get(form, 0))
