"""Streaming: text piece by piece while it is generated, never splitting a character.

T tokens of the prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import torch
from torch import Tensor

from minitransformer.generation.generate import Decoding, check_tokenizer, prepare
from minitransformer.generation.stopping import common_prefix_length, has_token
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from minitransformer.tokenization import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what an incomplete character is decoded to
_CONTEXT_LENGTH = 8  # how many tokens of the prompt the first new token is decoded with


class TextPieces:
    """Decodes tokens that arrive one at a time into pieces of text.

    Each token is decoded together with the tokens of the previous piece, because they decide
    whether a space precedes it and whether its bytes complete a character. Joined, the pieces are
    the text of all tokens. A token that the tokenizer does not have has no text.

    Args:
        tokenizer: decodes the tokens.
        context: the tokens before the first one, such as the prompt; their text is not returned.
        skip_special_tokens: whether special tokens such as `</s>` are left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._ids = [token for token in context if self._has_text(token)][-_CONTEXT_LENGTH:]
        self._num_returned = len(self._ids)  # how many of these tokens' text has been returned
        self._returned = tokenizer.decode(self._ids).rstrip(_INCOMPLETE)  # that text

    def add(self, token: int) -> str:
        """The text that this token makes final; empty while a character is incomplete."""
        if not self._has_text(token):
            return ""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids)
        final = self._final_part(text)
        piece = final[len(self._returned) :]
        if not piece or not final.startswith(self._returned):
            return ""
        self._returned = final
        if final == text:
            # The next token only needs the tokens of this piece.
            self._ids = self._ids[self._num_returned :]
            self._num_returned = len(self._ids)
            self._returned = self.tokenizer.decode(self._ids)
        return piece

    def rest(self) -> str:
        """The text still held back at the end; an incomplete character becomes U+FFFD."""
        text = self.tokenizer.decode(self._ids)
        return text[common_prefix_length(text, self._returned) :]

    def _has_text(self, token: int) -> bool:
        return token not in self.skipped and has_token(self.tokenizer, token)

    def _final_part(self, text: str) -> str:
        """The part of the text that no further token can change."""
        if self.tokenizer.clean_up_tokenization_spaces:
            # "do n ' t" becomes "don't" only at its last token, so two words are held back.
            words = text.rsplit(" ", 2)
            return words[0] if len(words) == 3 else ""
        return "" if text.endswith(_INCOMPLETE) else text


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text_or_ids: str | Sequence[int] | Tensor,
    *,
    config: GenerationConfig | None = None,
    defaults: GenerationConfig | None = None,
    seed: int | None = None,
    skip_special_tokens: bool = True,
    use_cache: bool = True,
    **changes: Any,
) -> Iterator[str]:
    """Generate text and yield it piece by piece.

    The arguments are checked at once; the model runs when the next piece is requested. Ctrl-C
    while it runs ends the iterator after the text generated so far, without an exception.

    Args:
        model: as in :func:`generate`.
        tokenizer: the model's tokenizer.
        text_or_ids: one prompt or source: a text, or its token ids, (T,) or (1, T).
        config, defaults, seed, use_cache, changes: as in :func:`generate`, but without beams.
        skip_special_tokens: whether special tokens such as `</s>` are left out.

    Returns:
        An iterator over the pieces. Joined, they are the generated text; the prompt of a decoder is
        not repeated.

    Raises:
        TypeError, ValueError: as in :func:`generate`.
    """
    check_tokenizer(tokenizer)
    device = next(model.parameters()).device
    input_ids = _one_sequence(tokenizer, text_or_ids).to(device)  # (1, T)
    inputs = input_ids, torch.ones_like(input_ids), None
    decoding = prepare(model, inputs, config, defaults, seed, tokenizer, use_cache, changes)
    if decoding.config.num_beams > 1 or decoding.config.num_return_sequences > 1:
        raise ValueError("stream needs num_beams=1 and num_return_sequences=1: it yields one text")
    context = [] if isinstance(model, Seq2SeqLM) else decoding.prompt[0].tolist()
    pieces = TextPieces(tokenizer, context, skip_special_tokens=skip_special_tokens)
    return _pieces(decoding, pieces)


def _one_sequence(tokenizer: Tokenizer, text_or_ids: Any) -> Tensor:
    """The token ids of one text, (1, T)."""
    if isinstance(text_or_ids, str):
        return tokenizer(text_or_ids, return_tensors="pt")["input_ids"]
    try:
        input_ids = torch.as_tensor(text_or_ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"text_or_ids is a {type(text_or_ids).__name__} that is not a sequence of token ids; "
            "pass one text or its token ids"
        ) from error
    input_ids = input_ids[None] if input_ids.dim() == 1 else input_ids
    if input_ids.dim() != 2 or len(input_ids) != 1:
        raise ValueError(
            f"text_or_ids has shape {tuple(input_ids.shape)}, but stream takes one sequence; pass "
            "(T,) or (1, T) token ids"
        )
    return input_ids


def _pieces(decoding: Decoding, pieces: TextPieces) -> Iterator[str]:
    # After Ctrl-C, the text ends with what was generated so far.
    with suppress(KeyboardInterrupt), closing(decoding.tokens()) as steps:
        for token, _ in steps:
            if piece := pieces.add(int(token)):
                yield piece
    if rest := pieces.rest():
        yield rest
