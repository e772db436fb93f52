"""Token classification: the class of every token of a text, or the entities made of them.

B batch, T tokens, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
from torch import Tensor

from minitransformer.batch_encoding import BatchEncoding
from minitransformer.models.base import Model
from minitransformer.models.classification import TokenClassification
from minitransformer.tasks.entity_grouping import (
    ScoredToken,
    check_strategy,
    continues_word,
    group_tokens,
    merge_windows,
    resolve_overlaps,
)
from minitransformer.tasks.running import Task, as_texts, longest_row
from minitransformer.tokenization import Tokenizer


class TokenClassifier(Task):
    """Callable that names the entities of texts, as transformers' pipeline does.

    A text that is too long is read in windows that overlap. transformers cuts it off, unless it is
    told a stride; then its entities are those of here.

    Args:
        model: a model for token classification.
        tokenizer: its tokenizer.
        batch_size: windows that are computed at once.

    Raises:
        ValueError: the model does not classify tokens, or the tokenizer has more tokens than the
            model has embeddings.
    """

    name = "token-classification"
    model_class = TokenClassification
    example = "BertForTokenClassification"
    model: TokenClassification

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
            `score` (a probability), `index` (its place in the row, however long), `word`, `start`
            and `end` (characters [start, end) of the text). An entity has `entity_group` in the
            place of `entity`, and no `index`. An empty text gives an empty list. For several texts:
            a list of what each alone would give.

        Raises:
            TypeError: a text is no str.
            ValueError: an unknown strategy, or a stride that leaves no room for new tokens.
        """
        check_strategy(aggregation_strategy)
        every_text = as_texts("texts", texts, may_be_empty=True)
        batch, stride = self._windows(every_text, stride)
        scores = self._run(batch, self._scores)
        answers = []
        owners = batch.overflow_to_sample
        for owner, rows in groupby(range(len(owners)), key=owners.__getitem__):
            windows = [
                list(self._tokens(batch, row, scores[row], every_text[owner])) for row in rows
            ]
            answers.append(self._entities(windows, aggregation_strategy, stride))
        return answers[0] if isinstance(texts, str) else answers

    def _windows(self, texts: list[str], stride: int | None) -> tuple[BatchEncoding, int]:
        """Every text in one window or several, and how many tokens neighbours share."""
        limit = longest_row(self.model, self.tokenizer)
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
        """The probabilities (T, C) of B rows, padding included."""
        return self.model(**inputs).logits.float().softmax(dim=-1).cpu().numpy()  # (B, T, C)

    def _tokens(
        self, batch: BatchEncoding, row: int, scores: np.ndarray, text: str
    ) -> Iterator[ScoredToken]:
        """The tokens of a row that stand for something in the text."""
        encoding = batch.encodings[row]
        offsets, special = encoding.offsets, encoding.special_tokens_mask
        for index, (token_id, word) in enumerate(zip(encoding.ids, encoding.tokens, strict=True)):
            if special[index]:
                continue
            start, end = offsets[index]
            goes_on = continues_word(word, text, start, end, marks_words=self.marks_words)
            if token_id == self.unk_token_id:
                word, goes_on = text[start:end], False
            yield ScoredToken(word, scores[index], start, end, index, goes_on)

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
