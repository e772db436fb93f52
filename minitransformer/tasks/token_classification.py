"""Token classification: the class of every token of a text, or the entities made of them.

First the grouping of scored tokens to words and entities, then the task. The results are those of
transformers' token-classification pipeline with a fast tokenizer, its rule for what a word is
included (:func:`continues_word`).

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
OUTSIDE = "O"  # the class of what is no entity


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, or a word, and what a model makes of it.

    Attributes:
        word: as the vocabulary writes it, such as `##ing`.
        scores: (C,) a probability for each class.
        start, end: its characters [start, end) in the text.
        index: its position in the sequence, special tokens counted.
        continues_word: it continues the word of the token before it.
    """

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues_word: bool = False


def continues_word(token: str, text: str, start: int, end: int, *, marks_words: bool) -> bool:
    """Whether a token continues a word, by transformers' rule.

    Args:
        token: as the vocabulary writes it.
        text: which it is from.
        start, end: its characters [start, end) in the text.
        marks_words: the vocabulary has a prefix, as WordPiece has `##`, for what continues a word.
            Then a token that is longer, or shorter, than its characters is taken to have it. That
            holds of a word whose normalized form has another length, too. Without a prefix,
            a token continues a word where no space is before it or at its start, and so
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
    """The entities of a sequence of tokens; what is of the class `O` is left out.

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
    """The tokens of overlapping windows, each of them once, with its position in the whole.

    Of the `stride` tokens that two neighbours share, the first half is taken from the earlier
    window and the rest from the later: from where more of the text around them was seen.
    """
    merged = list(windows[0])
    for window in windows[1:]:
        half = stride // 2
        merged[len(merged) - stride + half :] = window[half:]
    return [replace(token, index=windows[0][0].index + i) for i, token in enumerate(merged)]


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
    """Neighbours of one type; `B-` begins another entity, everything else continues one."""
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


# ---- the task ----


class TokenClassification(Task):
    """Callable that names the entities of texts, as transformers' pipeline does.

    A text that is too long is read in windows that overlap. transformers cuts it off, unless it is
    told a stride; then its entities are those of here.

    Args:
        model: a model for token classification.
        tokenizer: its tokenizer.
        batch_size: windows in a batch, at most.

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
            aggregation_strategy: "none" for tokens as they are. For entities "simple", or one that
                keeps words whole: "first", "average" or "max"; :func:`group_tokens` says how.
            stride: tokens that a window of a text that is too long shares with the one before; None
                is a quarter of a window. Where windows disagree, the longer entity wins, and of two
                as long the one of the higher score; a token alone ("none") is taken from the window
                that shows more of the text around it.

        Returns:
            For one text a list of dicts, one for each token or entity, in the order of the text;
            what is of the class `O` is left out. A token has `entity` (the name of its class),
            `score` (a probability), `index` (its position in the sequence, however long), `word`,
            `start` and `end` (characters [start, end) of the text). An entity has `entity_group` in
            the place of `entity`, and no `index`. An empty text gives an empty list. For several
            texts: a list of what each alone would give.

        Raises:
            TypeError: a text is no str.
            ValueError: an unknown strategy, or a stride that leaves no space for new tokens.
        """
        check_strategy(aggregation_strategy)
        every_text = as_texts("texts", texts, may_be_empty=True)
        batch, stride = self._windows(every_text, stride)
        scores = self._run(batch, self._scores)
        answers = []
        owners = batch.overflow_to_sample
        for owner, indices in groupby(range(len(owners)), key=owners.__getitem__):
            windows = [list(self._tokens(batch, i, scores[i], every_text[owner])) for i in indices]
            answers.append(self._entities(windows, aggregation_strategy, stride))
        return answers[0] if isinstance(texts, str) else answers

    def _windows(self, texts: list[str], stride: int | None) -> tuple[BatchEncoding, int]:
        """Every text in one window or several, and how many tokens neighbours share."""
        limit = max_tokens(self.model, self.tokenizer)
        if stride is None:
            special = len(self.tokenizer("")["input_ids"])
            stride = max(0, limit - special) // 4
        elif type(stride) is not int:
            raise ValueError(f"stride={stride!r} must be a number of tokens, or None")
        batch = self.tokenizer(
            texts,
            truncation=True,
            max_length=limit,
            stride=stride,
            return_overflowing_tokens=True,
        )
        return batch, stride

    def _scores(self, inputs: dict[str, Tensor]) -> Iterable[np.ndarray]:
        """The probabilities (T, C) of B sequences, padding included."""
        return self.model(**inputs).logits.float().softmax(dim=-1).cpu().numpy()  # (B, T, C)

    def _tokens(
        self, batch: BatchEncoding, index: int, scores: np.ndarray, text: str
    ) -> Iterator[ScoredToken]:
        """The tokens of a sequence that stand for something in the text."""
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
        """The text of tokens as the vocabulary writes them."""
        decoder = self.tokenizer.backend.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))
