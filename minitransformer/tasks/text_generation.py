"""Text generation: a decoder continues texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minitransformer.generation.streaming import TextPieces
from minitransformer.generation_config import GenerationConfig, resolve
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from minitransformer.tasks.base import as_texts
from minitransformer.tasks.generation import GenerationTask, checked_prefix


class TextGeneration(GenerationTask):
    """Callable that continues texts, as transformers' pipeline does.

    The fields of :class:`GenerationConfig` say how; those of the call go before those of the
    checkpoint. Where neither gives a number of tokens, that is an error: transformers' 256 tokens,
    drawn at a temperature of 0.7, are no default here.

    A prompt is never truncated. An end token that the tokenizer puts after a text is left out, for
    what comes after the end is another text. An empty prompt is the model's first token.

    Args:
        model: a decoder with a language-model head.
        tokenizer: its tokenizer.
        batch_size: texts in a batch, at most; with beams, each is as many sequences.

    Raises:
        ValueError: the model is no such decoder, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name = "text-generation"
    model_class = LanguageModel
    example = "GPT2LMHeadModel"
    result = "generated_text"

    @classmethod
    def supports(cls, model_class: type) -> bool:
        """Whether models of this class do the task: language models that are decoders alone."""
        return super().supports(model_class) and not issubclass(model_class, Seq2SeqLM)

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        return_full_text: bool = True,
        prefix: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Continue every text.

        Args:
            texts: one or several.
            return_full_text: whether the text comes back before its continuation.
            prefix: put before every text, neither given back nor counted in `max_length`; by
                default what the checkpoint says, which is mostly nothing.
            seed: makes sampling reproducible; the result depends on it, on the texts and on the
                batch size.
            fields: of GenerationConfig, such as `max_new_tokens=50`, `do_sample=True`,
                `num_return_sequences=3` or `stop_strings=["."]`.

        Returns:
            For one text: a list of dicts with `generated_text`, as many as
            `num_return_sequences`. For several: a list of such lists.

        Raises:
            TypeError: a text is no str, or a field is unknown.
            ValueError: a text leaves no space for the new tokens, no number of tokens is given, or
                a field has no meaning.
        """
        every_text = as_texts("texts", texts, may_be_empty=True)
        before = checked_prefix(self.settings.prefix if prefix is None else prefix)
        prompts = self._prompts(every_text, before)
        config, fields = self._lengths(before, fields)
        self._check_lengths(prompts, config, fields)
        generated = self._generate(prompts, config, seed, fields)
        answers = [
            [
                {self.result: (text if return_full_text else "") + self._continuation(prompt, ids)}
                for ids in several
            ]
            for text, prompt, several in zip(every_text, prompts, generated, strict=True)
        ]
        return answers[0] if isinstance(texts, str) else answers

    def stream(
        self, text: str, *, prefix: str | None = None, seed: int | None = None, **fields: Any
    ) -> Iterator[str]:
        """Continue one text, and give the continuation piece by piece, as it comes.

        Everything is checked at once; the model runs when a piece is asked for. Ctrl-C ends the
        iterator after what was generated so far.

        Args:
            text: the prompt, which is not given back.
            prefix, seed, fields: as in a call; one answer, without beams.

        Raises:
            TypeError, ValueError: as in a call.
        """
        before = checked_prefix(self.settings.prefix if prefix is None else prefix)
        prompts = self._prompts(as_texts("text", [text], may_be_empty=True), before)
        config, fields = self._lengths(before, fields)
        self._check_lengths(prompts, config, fields)
        return self._stream(prompts[0], config, seed, fields)

    def _prompts(self, texts: list[str], prefix: str) -> list[list[int]]:
        """The ids of each text, without what the tokenizer puts after it."""
        batch = self.tokenizer([prefix + text for text in texts])
        prompts = []
        for number, encoding in enumerate(batch.encodings):
            length = len(encoding)
            sequence_ids = batch.sequence_ids(number)  # None of what the tokenizer has added
            while length > 1 and sequence_ids[length - 1] is None:
                length -= 1
            prompts.append(list(encoding.ids[:length]) or [self._first_token(number)])
        return prompts

    def _first_token(self, number: int) -> int:
        first = self.settings.config.bos_token_id
        if first is None:
            raise ValueError(
                f"texts[{number}] is empty, and bos_token_id=None: there is nothing to begin with"
            )
        return first

    def _lengths(
        self, prefix: str, fields: dict[str, Any]
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Config and fields with lengths that count the prefix too, which the user does not."""
        more = len(self.tokenizer(prefix, add_special_tokens=False)["input_ids"])
        config = self.settings.config
        return replace(config, **_longer(vars(config), more)), fields | _longer(fields, more)

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
                        f"texts[{number}] has {len(prompt)} tokens, which leaves no space for a "
                        f"new one in max_length={config.max_length}; pass max_new_tokens instead"
                    )
            if most is not None and len(prompt) + most > longest:
                left = longest - len(prompt)
                fix = f"ask for at most {left}" if left > 0 else "shorten it"
                raise ValueError(
                    f"texts[{number}] has {len(prompt)} tokens, and {most} new ones are more than "
                    f"the {longest} that the model has positions for; {fix}"
                )

    def _continuation(self, prompt: list[int], new: list[int]) -> str:
        """The text of new tokens, read after the prompt, on which a space may depend."""
        pieces = TextPieces(self.tokenizer, prompt)
        return "".join(map(pieces.add, new)) + pieces.rest()


def _longer(fields: Mapping[str, Any], more: int) -> dict[str, Any]:
    """Those of the fields that are lengths with the prompt counted in, with `more` tokens."""
    names = [name for name in ("max_length", "min_length") if type(fields.get(name)) is int]
    return {name: fields[name] + more for name in names if fields[name] > 0}
