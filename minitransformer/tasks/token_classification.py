"""Token classification: the class of each token of a text, or the entities that tokens form.

First the functions that group tokens into words and entities, then the task. The results are those
of transformers' token-classification pipeline with a fast tokenizer, except that a word is what the
tokenizer's `word_ids` say, not what a rule over characters guesses; that the prefixes of tags are
read by their scheme (:mod:`minitransformer.tasks.tag_schemes`), not as B- and I- alone; and that no
entity begins or ends with white space.

B sequences of a batch, T tokens, C classes, P tokens of a word.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from minitransformer.models.base import Model
from minitransformer.models.bert import BertForTokenClassification
from minitransformer.names import shortened, unexpected_name
from minitransformer.tasks.base import (
    Task,
    as_texts,
    max_tokens,
    takes_any_inputs,
    without_white_space,
)
from minitransformer.tasks.tag_schemes import OUTSIDE, TagScheme
from minitransformer.tokenization import BatchEncoding, Tokenizer

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token or a word, and the model's scores for it.

    Attributes:
        word: as written in the vocabulary, such as `##ing`.
        scores: (C,), the probability of each class.
        start, end: the characters [start, end) in the text.
        index: the position in the sequence, including special tokens.
        word_id: the number of its word in the text.
    """

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    word_id: int | None = None


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
    scheme: TagScheme,
    strategy: str,
    join: Callable[[list[str]], str],
    ignore_labels: Sequence[str] = (OUTSIDE,),
) -> list[dict[str, Any]]:
    """Group tokens into entities.

    Args:
        tokens: in the order of the text.
        id2label: the names of the C classes.
        scheme: of these names.
        strategy: "none" returns single tokens. All others merge neighbours of the same entity and
            average their scores. "simple" merges tokens; the rest merge whole words, whose scores
            are those of the "first" token, those of the token with the highest score ("max"), or
            the "average" of all tokens.
        join: makes a text from tokens as written in the vocabulary.
        ignore_labels: the classes, or the types of entities, that are left out; no entity is of the
            class `O`.

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
        return [entity for entity in named if entity["entity"] not in ignore_labels]
    if strategy != "simple":
        words = groupby(tokens, key=lambda token: token.word_id)
        tokens = [_word(list(word), strategy, join) for _, word in words]
    found = scheme.find_entities([_label(token, id2label) for token in tokens])
    ignored = {*ignore_labels} - {OUTSIDE}  # the class; a type of entities may have this name too
    return [
        _entity(entity.type, tokens[entity.start : entity.end], join)
        for entity in found
        if entity.type not in ignored
    ]


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


def _entity(
    entity_type: str, tokens: Sequence[ScoredToken], join: Callable[[list[str]], str]
) -> dict[str, Any]:
    return {
        "entity_group": entity_type,
        "score": float(np.mean([token.scores.max() for token in tokens])),
        "word": join([token.word for token in tokens]),
        "start": tokens[0].start,
        "end": tokens[-1].end,
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

    Attributes:
        scheme: how the names of the classes are read.

    Raises:
        ValueError: the model does not classify tokens, or the tokenizer has more tokens than the
            model has embeddings.
    """

    name = "token-classification"
    model_class = BertForTokenClassification
    example = "BertForTokenClassification"
    elsewhere: ClassVar = {
        **Task.elsewhere,
        "ignore_subwords": ((False, None), "pass aggregation_strategy='first'"),
        "is_split_into_words": ((False, None), "pass a text: ' '.join(words)"),
        "truncation": ((False, None), "long texts are read in windows; leave it out"),
    }
    model: BertForTokenClassification

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        unknown = tokenizer.special_tokens.get("unk_token")
        self.unk_token_id = None if unknown is None else tokenizer.token_to_id(unknown)
        self.scheme = TagScheme(model.config.id2label.values())

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        aggregation_strategy: str | None = None,
        grouped_entities: bool = False,
        ignore_labels: Sequence[str] = (OUTSIDE,),
        stride: int | None = None,
    ) -> list[Any]:
        """Classify the tokens of every text.

        Args:
            texts: one or several.
            aggregation_strategy: "none", the default, returns single tokens. For entities, use
                "simple" or one that never splits a word: "first", "average" or "max"; see
                :func:`group_tokens`. A word is what the pre-tokenizer makes: for most, punctuation
                is a word of its own.
            grouped_entities: the older name of `aggregation_strategy="simple"`, which transformers
                5 has no more.
            ignore_labels: the classes, or types of entities, that are left out. Only single tokens
                can be of the class `O`.
            stride: how many tokens a window of a long text shares with the previous one; None is a
                quarter of a window. Where windows disagree, the longer entity wins, and of equally
                long ones that with the higher score; a single token ("none") is taken from the
                window with more context around it.

        Returns:
            For one text, a list of dicts, one for each token or entity, in the order of the text. A
            token has `entity` (the name of its class), `score` (a probability), `index` (its
            position among all tokens), `word`, `start` and `end` (characters [start, end) of the
            text). An entity has `entity_group` instead of `entity`, and no `index`. The list for an
            empty text is empty. For several texts: a list with the result of each.

        Raises:
            TypeError: a text is not a string.
            ValueError: the strategy is unknown or needs words, which the tokenizer does not split
                a text into; `ignore_labels` lacks `O` though entities are asked for; or the stride
                leaves no room for new tokens.
        """
        if aggregation_strategy is None:
            aggregation_strategy = "simple" if grouped_entities else "none"
        check_strategy(aggregation_strategy)
        if aggregation_strategy != "none" and OUTSIDE not in ignore_labels:
            raise ValueError(
                f"ignore_labels={shortened(ignore_labels)} lacks {OUTSIDE!r}, of which there are "
                'no entities; add it, or pass aggregation_strategy="none"'
            )
        if aggregation_strategy not in ("none", "simple"):
            self._check_words(aggregation_strategy)
        text_list = as_texts("texts", texts, may_be_empty=True)
        batch, stride = self._windows(text_list, stride)
        scores = self._run(batch, self._scores)
        answers = []
        owners = batch.overflow_to_sample
        for owner, indices in groupby(range(len(owners)), key=owners.__getitem__):
            text = text_list[owner]
            windows = [list(self._tokens(batch, i, scores[i], text)) for i in indices]
            answers.append(
                self._entities(windows, text, aggregation_strategy, stride, ignore_labels)
            )
        return answers[0] if isinstance(texts, str) else answers

    def _check_words(self, strategy: str) -> None:
        """Refuse a tokenizer for which a whole text is one word."""
        backend = self.tokenizer.backend
        text = "a b" if backend.normalizer is None else backend.normalizer.normalize_str("a b")
        splits = backend.pre_tokenizer
        if splits is None or len(splits.pre_tokenize_str(text)) < 2:
            raise ValueError(
                f"aggregation_strategy={strategy!r} needs words, but this tokenizer has no "
                'pre-tokenizer that splits a text into words; use "simple"'
            )

    def _windows(self, texts: list[str], stride: int | None) -> tuple[BatchEncoding, int]:
        """Split each text into windows; also return how many tokens neighbouring windows share."""
        limit = max_tokens(self.model, self.tokenizer)
        if stride is None:
            special = len(self.tokenizer("")["input_ids"])
            stride = max(0, limit - special) // 4
        elif type(stride) is not int:
            raise ValueError(f"stride={shortened(stride)} must be a number of tokens, or None")
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
        self, batch: BatchEncoding, number: int, scores: np.ndarray, text: str
    ) -> Iterator[ScoredToken]:
        """The tokens of a sequence, without special tokens."""
        encoding = batch.encodings[number]
        columns = zip(
            *(encoding.ids, encoding.tokens, encoding.offsets, encoding.word_ids),
            *(encoding.special_tokens_mask, scores[: len(encoding)]),
            strict=True,
        )
        for index, (token_id, word, (start, end), word_id, special, own) in enumerate(columns):
            if not special:
                if token_id == self.unk_token_id:
                    word = text[start:end]
                yield ScoredToken(word, own, start, end, index, word_id)

    def _entities(
        self,
        windows: list[list[ScoredToken]],
        text: str,
        strategy: str,
        stride: int,
        ignore_labels: Sequence[str],
    ) -> list[dict[str, Any]]:
        if strategy == "none":
            windows = [merge_windows(windows, stride)]
        id2label = self.model.config.id2label
        groups = [
            group_tokens(window, id2label, self.scheme, strategy, self._join, ignore_labels)
            for window in windows
        ]
        if strategy == "none":
            return groups[0]
        entities = resolve_overlaps(chain(*groups)) if len(groups) > 1 else groups[0]
        for entity in entities:
            entity["start"], entity["end"] = without_white_space(
                text, entity["start"], entity["end"]
            )
        return [entity for entity in entities if entity["start"] < entity["end"]]

    def _join(self, tokens: list[str]) -> str:
        """The text of tokens that are written as in the vocabulary."""
        decoder = self.tokenizer.backend.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))
