"""Token classification: the class of each token of a text, or the entities that tokens form.

First the functions that group tokens into words and entities, then the task. The results are those
of transformers' token-classification pipeline with a fast tokenizer, including its definition of a
word (:func:`continues_word`).

B sequences of a batch, T tokens, C classes, P tokens of a word.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import numpy as np
from torch import Tensor

from minitransformer.models.base import Model
from minitransformer.models.bert import BertForTokenClassification
from minitransformer.names import unexpected_name
from minitransformer.tasks.base import Task, as_texts, max_tokens
from minitransformer.tokenization import BatchEncoding, Tokenizer

STRATEGIES = ("none", "simple", "first", "average", "max")
OUTSIDE = "O"  # the class of tokens outside all entities


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token or a word, and the model's scores for it.

    Attributes:
        word: as written in the vocabulary, such as `##ing`.
        scores: (C,), the probability of each class.
        start, end: the characters [start, end) in the text.
        index: the position in the sequence, including special tokens.
        continues_word: whether it belongs to the same word as the previous token.
    """

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues_word: bool = False


def continues_word(token: str, text: str, start: int, end: int, *, marks_words: bool) -> bool:
    """Whether a token continues the word of the previous token, by transformers' rule.

    With `marks_words`, a token continues a word if its length differs from the number of its
    characters in the text: it is then assumed to have the prefix. This includes words whose
    normalization changes their length. Without it, a token continues a word unless a space precedes
    or begins it, so that punctuation belongs to the word before it.

    Args:
        token: as written in the vocabulary.
        text: the text of the token.
        start, end: the token's characters [start, end) in the text.
        marks_words: whether the vocabulary marks tokens within a word by a prefix, such as
            WordPiece's `##`.
    """
    if marks_words:
        return len(token) != end - start
    return start > 0 and " " not in text[start - 1 : start + 1]


def check_strategy(strategy: str) -> None:
    """Check the name of an aggregation strategy.

    Raises:
        ValueError: it is not one of `STRATEGIES`.
    """
    if strategy not in STRATEGIES:
        raise ValueError(unexpected_name("aggregation_strategy", str(strategy), STRATEGIES))


def group_tokens(
    tokens: Sequence[ScoredToken],
    id2label: Mapping[int, str],
    strategy: str,
    join: Callable[[list[str]], str],
) -> list[dict[str, Any]]:
    """Group tokens into entities; tokens of the class `O` are left out.

    Args:
        tokens: in the order of the text.
        id2label: the names of the C classes.
        strategy: "none" returns single tokens. All others merge neighbours of the same entity and
            average their scores. "simple" merges tokens; the rest merge whole words, whose scores
            are those of the "first" token, those of the token with the highest score ("max"), or
            the "average" of all tokens.
        join: makes a text from tokens as written in the vocabulary.

    Returns:
        For "none", a dict for each token with `entity`, `score`, `index`, `word`, `start` and
        `end`; otherwise one for each entity, with `entity_group` instead of `entity` and without
        `index`.

    Raises:
        ValueError: the strategy is unknown.
    """
    check_strategy(strategy)
    if strategy == "none":
        named = [_token_entity(token, id2label) for token in tokens]
        return [entity for entity in named if entity["entity"] != OUTSIDE]
    if strategy != "simple":
        tokens = [_word(word, strategy, join) for word in _split_words(tokens)]
    groups = _split_entities(tokens, id2label)
    entities = [_group_entity(group, id2label, join) for group in groups]
    return [entity for entity in entities if entity["entity_group"] != OUTSIDE]


def merge_windows(windows: Sequence[Sequence[ScoredToken]], stride: int) -> list[ScoredToken]:
    """Merge the tokens of overlapping windows, so that each occurs once, and renumber them.

    Of the `stride` tokens that two neighbouring windows share, the first half comes from the
    earlier window and the rest from the later one: each from the window with more context.
    """
    merged = list(windows[0])
    for window in windows[1:]:
        half = stride // 2
        merged[len(merged) - stride + half :] = window[half:]
    return [replace(token, index=windows[0][0].index + i) for i, token in enumerate(merged)]


def resolve_overlaps(entities: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the entities of overlapping windows, in the order of the text, without overlaps.

    Of two overlapping entities the longer one is kept; if they are equally long, the one with the
    higher score. The kept entity is then compared with the next one.
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
    """Group tokens into words; the very first token always begins one."""
    words: list[list[ScoredToken]] = []
    for token in tokens:
        if words and token.continues_word:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(
    tokens: Sequence[ScoredToken], strategy: str, join: Callable[[list[str]], str]
) -> ScoredToken:
    """Merge the P tokens of a word."""
    scores = np.stack([token.scores for token in tokens])  # (P, C)
    if strategy == "first":
        scores = scores[0]  # (C,)
    elif strategy == "max":
        scores = scores[scores.max(axis=1).argmax()]  # (C,)
    else:
        scores = scores.mean(axis=0)  # (C,)
    word = join([token.word for token in tokens])
    return ScoredToken(word, scores, tokens[0].start, tokens[-1].end, tokens[0].index)


def _split_entities(
    tokens: Sequence[ScoredToken], id2label: Mapping[int, str]
) -> list[list[ScoredToken]]:
    """Group neighbours of the same type; `B-` always begins a new entity."""
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
        # All prefixes are removed, such as E- and S-, though only B- and I- affect the grouping.
        "entity_group": _label(group[0], id2label).split("-", 1)[-1],
        "score": float(np.mean([token.scores.max() for token in group])),
        "word": join([token.word for token in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }


# ---- the task ----


class TokenClassification(Task):
    """Callable that finds the entities of texts, as transformers' pipeline does.

    A long text is read in overlapping windows. transformers truncates it unless a stride is set;
    with a stride, its entities are the same as here.

    Args:
        model: a model for token classification.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of windows in a batch.

    Raises:
        ValueError: the model does not classify tokens, or the tokenizer has more tokens than the
            model has embeddings.
    """

    name = "token-classification"
    model_class = BertForTokenClassification
    example = "BertForTokenClassification"
    model: BertForTokenClassification

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        unknown = tokenizer.special_tokens.get("unk_token")
        self.unk_token_id = None if unknown is None else tokenizer.token_to_id(unknown)
        prefix = getattr(tokenizer.backend.model, "continuing_subword_prefix", None)
        self.marks_words = bool(prefix)

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        aggregation_strategy: str = "none",
        stride: int | None = None,
    ) -> list[Any]:
        """Classify the tokens of every text.

        Args:
            texts: one or several.
            aggregation_strategy: "none" returns single tokens. For entities, use "simple" or one
                that never splits a word: "first", "average" or "max"; see :func:`group_tokens`.
            stride: how many tokens a window of a long text shares with the previous one; None is a
                quarter of a window. Where windows disagree, the longer entity wins, and of equally
                long ones that with the higher score; a single token ("none") is taken from the
                window with more context around it.

        Returns:
            For one text, a list of dicts, one for each token or entity, in the order of the text;
            tokens of the class `O` are left out. A token has `entity` (the name of its class),
            `score` (a probability), `index` (its position among all tokens), `word`, `start` and
            `end` (characters [start, end) of the text). An entity has `entity_group` instead of
            `entity`, and no `index`. The list for an empty text is empty. For several texts: a list
            with the result of each.

        Raises:
            TypeError: a text is not a string.
            ValueError: the strategy is unknown, or the stride leaves no room for new tokens.
        """
        check_strategy(aggregation_strategy)
        text_list = as_texts("texts", texts, may_be_empty=True)
        batch, stride = self._windows(text_list, stride)
        scores = self._run(batch, self._scores)
        answers = []
        owners = batch.overflow_to_sample
        for owner, indices in groupby(range(len(owners)), key=owners.__getitem__):
            windows = [list(self._tokens(batch, i, scores[i], text_list[owner])) for i in indices]
            answers.append(self._entities(windows, aggregation_strategy, stride))
        return answers[0] if isinstance(texts, str) else answers

    def _windows(self, texts: list[str], stride: int | None) -> tuple[BatchEncoding, int]:
        """Split each text into windows; also return how many tokens neighbouring windows share."""
        limit = max_tokens(self.model, self.tokenizer)
        if stride is None:
            special = len(self.tokenizer("")["input_ids"])
            stride = max(0, limit - special) // 4
        elif type(stride) is not int:
            raise ValueError(f"stride={stride!r} must be an integer number of tokens, or None")
        batch = self.tokenizer(
            texts,
            truncation=True,
            max_length=limit,
            stride=stride,
            return_overflowing_tokens=True,
        )
        return batch, stride

    def _scores(self, inputs: dict[str, Tensor]) -> Iterable[np.ndarray]:
        """The probabilities of B sequences, (T, C) each, including padding."""
        logits = self._finite(self.model(**inputs).logits, inputs["attention_mask"])  # (B, T, C)
        return logits.softmax(dim=-1).numpy()

    def _tokens(
        self, batch: BatchEncoding, index: int, scores: np.ndarray, text: str
    ) -> Iterator[ScoredToken]:
        """The tokens of a sequence, without special tokens."""
        encoding = batch.encodings[index]
        offsets, special = encoding.offsets, encoding.special_tokens_mask
        for position, (token_id, word) in enumerate(
            zip(encoding.ids, encoding.tokens, strict=True)
        ):
            if special[position]:
                continue
            start, end = offsets[position]
            continues = continues_word(word, text, start, end, marks_words=self.marks_words)
            if token_id == self.unk_token_id:
                word, continues = text[start:end], False
            yield ScoredToken(word, scores[position], start, end, position, continues)

    def _entities(
        self, windows: list[list[ScoredToken]], strategy: str, stride: int
    ) -> list[dict[str, Any]]:
        id2label = self.model.config.id2label
        if strategy == "none":
            return group_tokens(merge_windows(windows, stride), id2label, strategy, self._join)
        groups = [group_tokens(window, id2label, strategy, self._join) for window in windows]
        return resolve_overlaps(chain(*groups)) if len(groups) > 1 else groups[0]

    def _join(self, tokens: list[str]) -> str:
        """The text of tokens that are written as in the vocabulary."""
        decoder = self.tokenizer.backend.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))
