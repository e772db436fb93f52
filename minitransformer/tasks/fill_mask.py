"""Fill-mask: predict the token at the position of a mask.

B batch, T tokens, N masks, V vocabulary, K answers for each mask.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.generation.stopping import has_token
from minitransformer.models.base import Model
from minitransformer.models.bert import BertForMaskedLM
from minitransformer.names import shortened
from minitransformer.tasks.base import Task, as_texts, check_count, max_tokens, takes_any_inputs
from minitransformer.tokenization import Tokenizer


class FillMask(Task):
    """Callable that ranks the tokens for each mask of a text, as transformers' pipeline does.

    The mask is written as the tokenizer's `mask_token`: `<mask>` for RoBERTa, `[MASK]` for BERT and
    DistilBERT.

    Args:
        model: a model for masked language modelling.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch.

    Raises:
        ValueError: the model has no masked-language-modelling head, the tokenizer has no mask
            token, or it has more tokens than the model has embeddings.
    """

    name = "fill-mask"
    model_class = BertForMaskedLM
    example = "BertForMaskedLM"
    other_names: ClassVar = {**Task.other_names, "topk": "top_k"}
    model: BertForMaskedLM

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        self.mask_token_id = tokenizer.mask_token_id
        # A model may have more embeddings than there are tokens, and ids may have gaps.
        ids = range(tokenizer.vocab_size)
        self.token_ids = torch.tensor([i for i in ids if has_token(tokenizer, i)])

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
    ) -> list[Any]:
        """Fill every mask of every text.

        Args:
            texts: one text or several, each with at least one mask.
            top_k: how many tokens to return for each mask.
            targets: rank only these tokens, given as one string or several. With a byte-level
                vocabulary, a word in the middle of a text includes the space before it, " va". The
                end of a word is written as in the vocabulary, "##mente".

        Returns:
            For one text with one mask: a list of dicts with `score` (a probability), `token` (the
            id), `token_str` and `sequence`, best first. With several masks: such a list for each
            mask. For several texts: a list with the result of each. The probability is among all
            embeddings of the model; those without a token are no answers.

        Raises:
            TypeError: a text or target is not a string.
            ValueError: a text has no mask or is too long, or a target is not one known token.
        """
        check_count("top_k", top_k)
        candidates = self.token_ids if targets is None else self._target_ids(targets)
        text_list = as_texts("texts", texts, may_be_empty=True)
        batch = self.tokenizer(text_list)
        self._check(text_list, batch["input_ids"])
        answers = self._run(batch, lambda inputs: self._fill(inputs, top_k, candidates))
        return answers[0] if isinstance(texts, str) else answers

    def _check(self, texts: Sequence[str], input_ids: list[list[int]]) -> None:
        """Reject texts without a mask, and long ones: truncation might remove the mask."""
        limit = max_tokens(self.model, self.tokenizer)
        for number, (text, ids) in enumerate(zip(texts, input_ids, strict=True)):
            if self.mask_token_id not in ids:
                raise ValueError(
                    f"texts[{number}] has no {self.tokenizer.mask_token}: {shortened(text)}"
                )
            if len(ids) > limit:
                raise ValueError(
                    f"texts[{number}] has {len(ids)} tokens, but the maximum is {limit}; shorten it"
                )

    def _fill(
        self, inputs: dict[str, Tensor], top_k: int, candidates: Tensor
    ) -> Iterator[list[Any]]:
        masked = inputs["input_ids"] == self.mask_token_id  # (B, T)
        scores = self._finite(self.model.logits_at(masked, **inputs)).softmax(dim=-1)  # (N, V)
        best = scores[:, candidates].topk(min(top_k, len(candidates)))  # (N, K)
        # For each mask: its K scores and its K tokens.
        ranked = zip(best.values.tolist(), candidates[best.indices].tolist(), strict=True)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        for text, length in zip(inputs["input_ids"].tolist(), lengths, strict=True):
            positions = [i for i, token in enumerate(text) if token == self.mask_token_id]
            answers = [
                [
                    self._answer(text[:length], position, token, score, several=len(positions) > 1)
                    for score, token in zip(*next(ranked), strict=True)
                ]
                for position in positions
            ]
            yield answers[0] if len(answers) == 1 else answers

    def _answer(
        self, ids: list[int], position: int, token: int, score: float, several: bool
    ) -> dict[str, Any]:
        filled = [*ids[:position], token, *ids[position + 1 :]]
        return {
            "score": score,
            "token": token,
            "token_str": self.tokenizer.decode([token]),
            # With several masks, keep the special tokens, so that the other masks stay visible.
            "sequence": self.tokenizer.decode(filled, skip_special_tokens=not several),
        }

    def _target_ids(self, targets: str | Sequence[str]) -> Tensor:
        texts = as_texts("targets", targets, may_be_empty=True)
        if not texts:
            raise ValueError("targets is empty; leave it out to rank every token")
        ids = dict.fromkeys(map(self._target_id, texts))  # two spellings may be one token
        return torch.tensor(list(ids))

    def _target_id(self, text: str) -> int:
        if (known := self.tokenizer.backend.token_to_id(text)) is not None:
            return int(known)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"the target {shortened(text)} is {len(ids)} tokens; it must be one")
        token = self.tokenizer.id_to_token(ids[0])
        if token == self.tokenizer.special_tokens.get("unk_token"):
            raise ValueError(f"the target {shortened(text)} is not in the vocabulary")
        return int(ids[0])
