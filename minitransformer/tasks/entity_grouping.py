"""From scores of tokens to words and entities: the grouping behind token classification.

The results are those of transformers' token-classification pipeline with a fast tokenizer, its
rule for what a word is included (:func:`continues_word`).

C classes, P tokens of a word.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minitransformer.names import unexpected_name

STRATEGIES = ("none", "simple", "first", "average", "max")
OUTSIDE = "O"  # the class of what is no entity


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, or a word, and what a model makes of it.

    Attributes:
        word: as the vocabulary writes it, such as `##ing`.
        scores: (C,) a probability for each class.
        start, end: its characters [start, end) in the text.
        index: its place in the row, special tokens counted.
        continues_word: it goes on with the word of the token before it.
    """

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues_word: bool = False


def continues_word(token: str, text: str, start: int, end: int, *, marks_words: bool) -> bool:
    """Whether a token goes on with a word, as transformers tells.

    Args:
        token: as the vocabulary writes it.
        text: which it is from.
        start, end: its characters [start, end) in the text.
        marks_words: the vocabulary has a prefix, as WordPiece has `##`, for what continues a word.
            Then a token that is longer, or shorter, than its characters is taken to have it. That
            holds of a word whose normalized form has another length, too. Without a prefix,
            a token goes on with a word where no space is before it or at its start, and so
            punctuation belongs to the word that it follows.
    """
    if marks_words:
        return len(token) != end - start
    return start > 0 and " " not in text[start - 1 : start + 1]


def check_strategy(strategy: str) -> None:
    """Raise ValueError where `strategy` is none of `STRATEGIES`."""
    if strategy not in STRATEGIES:
        raise ValueError(unexpected_name("aggregation_strategy", str(strategy), STRATEGIES))


def group_tokens(
    tokens: Sequence[ScoredToken],
    id2label: Mapping[int, str],
    strategy: str,
    join: Callable[[list[str]], str],
) -> list[dict[str, Any]]:
    """The entities of a row of tokens; what is of the class `O` is left out.

    Args:
        tokens: in the order of the text.
        id2label: the names of the C classes.
        strategy: "none" gives tokens as they are. The others join neighbours of one entity, with
            the mean of their scores: "simple" tokens, and the rest whole words, whose class is that
            of the "first" token, that of the "max"imal score, or the best of the "average".
        join: makes a text of tokens as the vocabulary writes them.

    Returns:
        For "none" a dict for each token with `entity`, `score`, `index`, `word`, `start` and `end`;
        else for each entity, with `entity_group` in the place of `entity` and no `index`.

    Raises:
        ValueError: an unknown strategy.
    """
    check_strategy(strategy)
    if strategy == "none":
        named = [_token_entity(token, id2label) for token in tokens]
        return [entity for entity in named if entity["entity"] != OUTSIDE]
    if strategy != "simple":
        tokens = [_word(pieces, strategy, join) for pieces in _split_words(tokens)]
    groups = _split_entities(tokens, id2label)
    entities = [_group_entity(group, id2label, join) for group in groups]
    return [entity for entity in entities if entity["entity_group"] != OUTSIDE]


def merge_windows(windows: Sequence[Sequence[ScoredToken]], stride: int) -> list[ScoredToken]:
    """The tokens of overlapping windows, each of them once, with its place in the whole row.

    Of the `stride` tokens that two neighbours share, the first half is taken from the earlier
    window and the rest from the later: from where more of the text around them was seen.
    """
    merged = list(windows[0])
    for window in windows[1:]:
        half = stride // 2
        merged[len(merged) - stride + half :] = window[half:]
    return [replace(token, index=windows[0][0].index + place) for place, token in enumerate(merged)]


def resolve_overlaps(entities: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entities of overlapping windows, in their order in the text, each of them once.

    Of two that overlap the longer one stays, of two as long the one of the higher score. It is
    compared with the next entity in its turn.
    """
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        elif _strength(entity) > _strength(kept[-1]):
            kept[-1] = entity
    return kept


def _strength(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _token_entity(token: ScoredToken, id2label: Mapping[int, str]) -> dict[str, Any]:
    return {
        "entity": _label(token, id2label),
        "score": float(token.scores.max()),
        "index": token.index,
        "word": token.word,
        "start": token.start,
        "end": token.end,
    }


def _label(token: ScoredToken, id2label: Mapping[int, str]) -> str:
    return id2label[int(token.scores.argmax())]


def _split_words(tokens: Sequence[ScoredToken]) -> list[list[ScoredToken]]:
    """The tokens of each word; the first token of all begins one, whatever it is."""
    words: list[list[ScoredToken]] = []
    for token in tokens:
        if words and token.continues_word:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(
    pieces: Sequence[ScoredToken], strategy: str, join: Callable[[list[str]], str]
) -> ScoredToken:
    """One word of its P tokens."""
    scores = np.stack([piece.scores for piece in pieces])  # (P, C)
    if strategy == "first":
        scores = scores[0]
    elif strategy == "max":
        scores = scores[scores.max(axis=1).argmax()]
    else:
        scores = scores.mean(axis=0)  # (C,)
    word = join([piece.word for piece in pieces])
    return ScoredToken(word, scores, pieces[0].start, pieces[-1].end, pieces[0].index)


def _split_entities(
    tokens: Sequence[ScoredToken], id2label: Mapping[int, str]
) -> list[list[ScoredToken]]:
    """Neighbours of one type; `B-` begins another entity, everything else goes on with one."""
    groups: list[list[ScoredToken]] = []
    type_before = None
    for token in tokens:
        label = _label(token, id2label)
        entity_type = label[2:] if label[:2] in ("B-", "I-") else label
        if entity_type == type_before and not label.startswith("B-"):
            groups[-1].append(token)
        else:
            groups.append([token])
        type_before = entity_type
    return groups


def _group_entity(
    group: Sequence[ScoredToken], id2label: Mapping[int, str], join: Callable[[list[str]], str]
) -> dict[str, Any]:
    return {
        # Any prefix goes, such as E- and S-, though only B- and I- guide the grouping.
        "entity_group": _label(group[0], id2label).split("-", 1)[-1],
        "score": float(np.mean([token.scores.max() for token in group])),
        "word": join([token.word for token in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }
