"""Text generation: continue texts with a decoder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minitransformer.generation.streaming import TextPieces
from minitransformer.generation_config import GenerationConfig, resolve
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from minitransformer.tasks.base import as_texts, takes_any_inputs
from minitransformer.tasks.generation import GenerationTask, checked_prefix, uses_defaults


class TextGeneration(GenerationTask):
    """Callable that continues texts, as transformers' pipeline does.

    The fields of :class:`GenerationConfig` control the generation; those of the call override those
    of the checkpoint. The number of tokens must be set in one of them: the default of transformers'
    pipeline, 256 tokens sampled at a temperature of 0.7, does not apply.

    A prompt is never truncated. If the tokenizer appends an end token, it is removed, because the
    model would begin another text after it. An empty prompt becomes the `bos_token_id`.

    Args:
        model: a decoder with a language-model head.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch; with beams, a text is several sequences.

    Raises:
        ValueError: the model is not such a decoder, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name = "text-generation"
    model_class = LanguageModel
    example = "GPT2LMHeadModel"
    result = "generated_text"

    @classmethod
    def supports(cls, model_class: type) -> bool:
        """Whether models of this class do the task: language models without an encoder."""
        return super().supports(model_class) and not issubclass(model_class, Seq2SeqLM)

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        return_full_text: bool = True,
        prefix: str | None = None,
        seed: int | None = None,
        truncation: bool | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Continue every text.

        Args:
            texts: one or several.
            return_full_text: whether the result includes the prompt.
            prefix: prepended to every text; it is neither returned nor counted in `max_length`. The
                default is the checkpoint's, which is usually empty.
            seed: makes sampling reproducible, for the same texts and batch size.
            truncation: changes nothing: a prompt that is too long is an error.
            fields: of GenerationConfig, such as `max_new_tokens=50`, `do_sample=True`,
                `num_return_sequences=3` or `stop_strings=["."]`.

        Returns:
            For one text: a list of `num_return_sequences` dicts with `generated_text`. For several:
            a list of such lists.

        Raises:
            TypeError: a text is not a string, or a field is unknown.
            ValueError: a text leaves no room for the new tokens, the number of tokens is not set,
                or a field is invalid.
        """
        text_list = as_texts("texts", texts, may_be_empty=True)
        before = checked_prefix(self.settings.prefix if prefix is None else prefix)
        prompts = self._prompts(text_list, before)
        config, fields = self._lengths(before, fields)
        self._check_lengths(prompts, config, fields)
        generated = self._generate(prompts, config, seed, fields)
        answers = [
            [
                {self.result: (text if return_full_text else "") + self._continuation(prompt, ids)}
                for ids in several
            ]
            for text, prompt, several in zip(text_list, prompts, generated, strict=True)
        ]
        return answers[0] if isinstance(texts, str) else answers

    @uses_defaults
    def stream(
        self, text: str, *, prefix: str | None = None, seed: int | None = None, **fields: Any
    ) -> Iterator[str]:
        """Continue one text, and yield the continuation piece by piece.

        The arguments are checked at once; the model runs when the next piece is requested. Ctrl-C
        ends the iterator after the text generated so far.

        Args:
            text: the prompt, which is not returned.
            prefix, seed, fields: as for `__call__`; only one answer, without beams.

        Raises:
            TypeError, ValueError: as for `__call__`.
        """
        before = checked_prefix(self.settings.prefix if prefix is None else prefix)
        prompts = self._prompts(as_texts("text", [text], may_be_empty=True), before)
        config, fields = self._lengths(before, fields)
        self._check_lengths(prompts, config, fields)
        return self._stream(prompts[0], config, seed, fields)

    def _prompts(self, texts: list[str], prefix: str) -> list[list[int]]:
        """The ids of each text, without tokens that the tokenizer appends."""
        batch = self.tokenizer([prefix + text for text in texts])
        prompts = []
        for number, encoding in enumerate(batch.encodings):
            length = len(encoding)
            sequence_ids = batch.sequence_ids(number)  # None for tokens that the tokenizer added
            while length > 1 and sequence_ids[length - 1] is None:
                length -= 1
            prompts.append(list(encoding.ids[:length]) or [self._first_token(number)])
        return prompts

    def _first_token(self, number: int) -> int:
        first = self.settings.config.bos_token_id
        if first is None:
            raise ValueError(
                f"texts[{number}] is empty, and bos_token_id=None leaves no first token; pass a "
                "text that is not empty"
            )
        return first

    def _lengths(
        self, prefix: str, fields: dict[str, Any]
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Config and fields with the prefix added to the lengths; users do not count it."""
        extra = len(self.tokenizer(prefix, add_special_tokens=False)["input_ids"])
        config = self.settings.config
        return replace(config, **_longer(vars(config), extra)), fields | _longer(fields, extra)

    def _check_lengths(
        self, prompts: list[list[int]], config: GenerationConfig, fields: dict[str, Any]
    ) -> None:
        """Check that the model has positions for every prompt and the new tokens after it."""
        config = resolve(config, None, fields)
        longest: int = self.model.config.max_sequence_length
        for number, prompt in enumerate(prompts):
            most = config.max_new_tokens
            if most is None and config.max_length is not None:
                most = config.max_length - len(prompt)
                if most < 1:
                    raise ValueError(
                        f"texts[{number}] has {len(prompt)} tokens, which leaves no room for a "
                        f"new one in max_length={config.max_length}; pass max_new_tokens instead"
                    )
            if most is not None and len(prompt) + most > longest:
                left = longest - len(prompt)
                fix = f"set max_new_tokens to at most {left}" if left > 0 else "shorten it"
                raise ValueError(
                    f"texts[{number}] has {len(prompt)} tokens; with {most} new "
                    f"one{'s' * (most > 1)} it exceeds the model's {longest} positions; {fix}"
                )

    def _continuation(self, prompt: list[int], new: list[int]) -> str:
        """The text of the new tokens, decoded after the prompt, which may decide on a space."""
        pieces = TextPieces(self.tokenizer, prompt)
        return "".join(map(pieces.add, new)) + pieces.rest()


def _longer(fields: Mapping[str, Any], extra: int) -> dict[str, Any]:
    """Those of the fields that are lengths including the prompt, each raised by `extra`."""
    names = [name for name in ("max_length", "min_length") if type(fields.get(name)) is int]
    return {name: fields[name] + extra for name in names if fields[name] > 0}
