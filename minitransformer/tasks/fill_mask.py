"""Fill-mask: which words fit where `<mask>` stands. N masks, V vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from minitransformer.hf.loading import from_pretrained
from minitransformer.models.heads import MaskedLM
from minitransformer.tokenization import Tokenizer


class FillMask:
    """Callable that ranks the words for each mask of a text, as transformers' pipeline does.

    Args:
        model: a model for masked language modelling.
        tokenizer: its tokenizer.
        batch_size: texts that are computed at once.

    Raises:
        ValueError: the model guesses no masked words, the tokenizer has no mask, or it has more
            tokens than the model has embeddings.
    """

    def __init__(self, model: MaskedLM, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        if not isinstance(model, MaskedLM):
            raise ValueError(
                f"fill-mask needs a model for masked language modelling, such as "
                f"RobertaForMaskedLM; this is a {type(model).__name__}"
            )
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only "
                f"vocab_size={model.config.vocab_size} embeddings: they do not belong together"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.mask_token_id = tokenizer.mask_token_id

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load model and tokenizer from one checkpoint."""
        model = from_pretrained(path, device=device)
        return cls(model, Tokenizer.from_pretrained(path))  # type: ignore[arg-type]

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
            top_k: how many words for each mask.
            targets: rank this word, or these, alone; each must be one token. A word that follows a
                space is written with it, " va", where the tokenizer tells the two apart.

        Returns:
            For one text with one mask: a list of dicts with `score` (a probability), `token` (its
            id), `token_str` and `sequence`, best first. With several masks: such a list for each
            mask. For several texts: a list of what each text alone would give.

        Raises:
            ValueError: a text has no mask or is too long, or a target is not one token.
        """
        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k={top_k!r} must be an integer of at least 1")
        allowed = None if targets is None else self._target_ids(targets)
        single = isinstance(texts, str)
        every_text = [texts] if isinstance(texts, str) else list(texts)
        answers: list[Any] = []
        for start in range(0, len(every_text), self.batch_size):
            answers += self._fill(every_text[start : start + self.batch_size], top_k, allowed)
        return answers[0] if single else answers

    @torch.inference_mode()
    def _fill(self, texts: list[str], top_k: int, allowed: list[int] | None) -> list[Any]:
        batch = self.tokenizer(texts, padding=True, return_tensors="pt")
        batch = batch.to(next(self.model.parameters()).device)
        masked = batch["input_ids"] == self.mask_token_id  # (B, T)
        for text, count in zip(texts, masked.sum(dim=1).tolist(), strict=True):
            if not count:
                raise ValueError(f"there is no {self.tokenizer.mask_token} in {text!r}")
        scores = self.model.logits_at(masked, **batch).float().softmax(dim=-1).cpu()  # (N, V)
        batch, masked = batch.to("cpu"), masked.cpu()
        candidates = torch.tensor(range(scores.shape[1]) if allowed is None else allowed)
        scores = scores[:, candidates]
        best = scores.topk(min(top_k, len(candidates)), dim=-1)
        answers: list[Any] = [[] for _ in texts]
        for (row, place), values, chosen in zip(
            masked.nonzero().tolist(), best.values.tolist(), best.indices.tolist(), strict=True
        ):
            several = int(masked[row].sum()) > 1
            real = batch["attention_mask"][row].bool()
            answers[row].append([])
            for score, token in zip(values, candidates[chosen].tolist(), strict=True):
                filled = batch["input_ids"][row].clone()
                filled[place] = token
                answers[row][-1].append(
                    {
                        "score": score,
                        "token": token,
                        "token_str": self.tokenizer.decode([token]),
                        # The other masks stay visible, and with them every special token.
                        "sequence": self.tokenizer.decode(
                            filled[real], skip_special_tokens=not several
                        ),
                    }
                )
        return [answer[0] if len(answer) == 1 else answer for answer in answers]

    def _target_ids(self, targets: str | Sequence[str]) -> list[int]:
        words = [targets] if isinstance(targets, str) else list(targets)
        if not words:
            raise ValueError("targets is empty; leave it out to rank every word")
        found = []
        for word in dict.fromkeys(words):
            ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise ValueError(f"the target {word!r} is {len(ids)} tokens, not one")
            found += ids
        return found
