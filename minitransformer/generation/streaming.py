"""Text as it is generated, piece by piece, without ever splitting a character.

T tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import torch
from torch import Tensor

from minitransformer.generation.generate import Decoding, check_tokenizer, prepare
from minitransformer.generation.stopping import has_text, shared_length
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from minitransformer.tokenization import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for part of a character
_CONTEXT = 8  # tokens of the prompt that the first new one is read after


class TextPieces:
    """Turns tokens that come one by one into pieces of text.

    A token is read together with those of the piece before it, because what it stands for depends
    on them: whether a space comes first, and which bytes make up a character. The pieces, joined,
    are the text of all tokens. A token that the tokenizer does not have has no text.

    Args:
        tokenizer: what turns tokens into text.
        context: tokens before the first one, such as a prompt; of their text nothing comes back.
        skip_special_tokens: whether `</s>` and its like are left out.
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
        self._ids = [token for token in context if not self._has_no_text(token)][-_CONTEXT:]
        self._shown = len(self._ids)  # of these tokens, those whose text has been given
        self._before = tokenizer.decode(self._ids).rstrip(_UNFINISHED)  # that text

    def add(self, token: int) -> str:
        """The text that is certain now; empty where a character is still unfinished."""
        if self._has_no_text(token):
            return ""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids)
        certain = self._certain(text)
        piece = certain[len(self._before) :]
        if not piece or not certain.startswith(self._before):
            return ""
        self._before = certain
        if certain == text:
            # What is read next needs no more than the tokens of this piece.
            self._ids = self._ids[self._shown :]
            self._shown = len(self._ids)
            self._before = self.tokenizer.decode(self._ids)
        return piece

    def rest(self) -> str:
        """What is left at the end, such as an unfinished character, shown as U+FFFD."""
        text = self.tokenizer.decode(self._ids)
        return text[shared_length(text, self._before) :]

    def _has_no_text(self, token: int) -> bool:
        return token in self.skipped or not has_text(self.tokenizer, token)

    def _certain(self, text: str) -> str:
        """What no further token will change."""
        if self.tokenizer.clean_up_tokenization_spaces:
            # "do n ' t" becomes "don't" when its last token comes: two words are held back.
            words = text.rsplit(" ", 2)
            return words[0] if len(words) == 3 else ""
        return "" if text.endswith(_UNFINISHED) else text


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
    """Generate, and give the text as it comes.

    All checks are done at once; the model runs when a piece is asked for. Ctrl-C while it runs ends
    the iterator after what was generated; no exception comes out of it.

    Args:
        model: as in :func:`generate`.
        tokenizer: its tokenizer.
        text_or_ids: one prompt or source.
        config, defaults, seed, use_cache, changes: as in :func:`generate`; not with beams.
        skip_special_tokens: whether `</s>` and its like are left out.

    Returns:
        The pieces. Joined, they are the text that was generated; of a decoder, what it adds to
        the text of its prompt.

    Raises:
        TypeError, ValueError: as in :func:`generate`.
    """
    check_tokenizer(tokenizer)
    device = next(model.parameters()).device
    input_ids = _one_sequence(tokenizer, text_or_ids).to(device)  # (1, T)
    mask = torch.ones_like(input_ids)
    decoding = prepare(
        model, input_ids, mask, config, defaults, seed, tokenizer, use_cache, changes
    )
    if decoding.config.num_beams > 1 or decoding.config.num_return_sequences > 1:
        raise ValueError("stream needs num_beams=1 and num_return_sequences=1: it gives one text")
    context = [] if isinstance(model, Seq2SeqLM) else decoding.prompt[0].tolist()
    pieces = TextPieces(tokenizer, context, skip_special_tokens=skip_special_tokens)
    return _pieces(decoding, pieces)


def _one_sequence(tokenizer: Tokenizer, text_or_ids: Any) -> Tensor:
    """The ids of one text: (1, T)."""
    if isinstance(text_or_ids, str):
        return tokenizer(text_or_ids, return_tensors="pt")["input_ids"]
    try:
        input_ids = torch.as_tensor(text_or_ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"text_or_ids is a {type(text_or_ids).__name__} that holds no sequence of ids; stream "
            "generates from one text, or from the ids of one"
        ) from error
    input_ids = input_ids[None] if input_ids.dim() == 1 else input_ids
    if input_ids.dim() != 2 or len(input_ids) != 1:
        raise ValueError(f"stream takes one text; the ids have shape {tuple(input_ids.shape)}")
    return input_ids


def _pieces(decoding: Decoding, pieces: TextPieces) -> Iterator[str]:
    # After Ctrl-C, what was generated so far is the text.
    with suppress(KeyboardInterrupt), closing(decoding.tokens()) as steps:
        for token, _ in steps:
            if piece := pieces.add(int(token)):
                yield piece
    if rest := pieces.rest():
        yield rest
