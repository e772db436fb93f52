"""Text generation: how does a text go on?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minitransformer.generation.settings import settle
from minitransformer.generation.streaming import TextPieces
from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.generative import CausalLM
from minitransformer.tasks.running import as_texts
from minitransformer.tasks.settings import checked_prefix
from minitransformer.tasks.writing import WritingTask


class TextGeneration(WritingTask):
    """Callable that goes on with texts, as transformers' pipeline does.

    How, is said by the fields of :class:`GenerationConfig`, those of the call before those of the
    checkpoint. Where neither says how many tokens are wanted, that is an error: transformers' 256
    tokens, drawn at a temperature of 0.7, are no default here.

    A prompt is never cut. An end token that the tokenizer puts after a text is left out, for what
    comes after the end is another text. An empty prompt is the model's first token.

    Args:
        model: a decoder that writes.
        tokenizer: its tokenizer.
        batch_size: texts that are computed at once; with beams, each takes as many rows.

    Raises:
        ValueError: the model is no decoder that writes, or the tokenizer has more tokens than the
            model has embeddings.
    """

    name = "text-generation"
    model_class = CausalLM
    example = "GPT2LMHeadModel"
    result = "generated_text"
    model: CausalLM

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        return_full_text: bool = True,
        prefix: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Go on with every text.

        Args:
            texts: one or several.
            return_full_text: whether the text comes back before what was written.
            prefix: put before every text, neither given back nor counted in `max_length`; by
                default what the checkpoint says, which is mostly nothing.
            seed: what is drawn is a function of it, of the texts and of the batch size.
            fields: of GenerationConfig, such as `max_new_tokens=50`, `do_sample=True`,
                `num_return_sequences=3` or `stop_strings=["."]`.

        Returns:
            For one text: a list of dicts with `generated_text`, as many as
            `num_return_sequences`. For several: a list of such lists.

        Raises:
            TypeError: a text is no str, or a field is unknown.
            ValueError: a text leaves no room for the new tokens, nobody says how many those are,
                or a field has no meaning.
        """
        prompts = as_texts("texts", texts, may_be_empty=True)
        before = checked_prefix(self.settings.prefix if prefix is None else prefix)
        rows = self._prompts(prompts, before)
        config, fields = self._lengths(before, fields)
        self._check_room(rows, config, fields)
        written = self._write(rows, config, seed, fields)
        answers = [
            [
                {self.result: (text if return_full_text else "") + self._continuation(row, ids)}
                for ids in several
            ]
            for text, row, several in zip(prompts, rows, written, strict=True)
        ]
        return answers[0] if isinstance(texts, str) else answers

    def stream(
        self, text: str, *, prefix: str | None = None, seed: int | None = None, **fields: Any
    ) -> Iterator[str]:
        """Go on with one text, and give what is written piece by piece, as it comes.

        Everything is checked at once; the model runs when a piece is asked for. Ctrl-C ends the
        iterator after what was written.

        Args:
            text: the prompt, which is not given back.
            prefix, seed, fields: as in a call; one answer, without beams.

        Raises:
            TypeError, ValueError: as in a call.
        """
        before = checked_prefix(self.settings.prefix if prefix is None else prefix)
        rows = self._prompts(as_texts("text", [text], may_be_empty=True), before)
        config, fields = self._lengths(before, fields)
        self._check_room(rows, config, fields)
        return self._stream(rows[0], config, seed, fields)

    def _prompts(self, texts: list[str], prefix: str) -> list[list[int]]:
        """The ids of each text, without what the tokenizer puts after it."""
        batch = self.tokenizer([prefix + text for text in texts])
        rows = []
        for number, encoding in enumerate(batch.encodings):
            length = len(encoding)
            owners = batch.sequence_ids(number)  # None of what the tokenizer has added
            while length > 1 and owners[length - 1] is None:
                length -= 1
            rows.append(list(encoding.ids[:length]) or [self._first_token(number)])
        return rows

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

    def _check_room(
        self, rows: list[list[int]], config: GenerationConfig, fields: dict[str, Any]
    ) -> None:
        """Check that every prompt leaves room for the tokens that are asked for."""
        config = settle(config, None, fields)
        longest: int = self.model.config.max_sequence_length  # type: ignore[attr-defined]
        for number, row in enumerate(rows):
            most = config.max_new_tokens
            if most is None and config.max_length is not None:
                most = config.max_length - len(row)
                if most < 1:
                    raise ValueError(
                        f"texts[{number}] has {len(row)} tokens, which leaves no room for a new "
                        f"one in max_length={config.max_length}; pass max_new_tokens instead"
                    )
            if most is not None and len(row) + most > longest:
                left = longest - len(row)
                fix = f"ask for at most {left}" if left > 0 else "shorten it"
                raise ValueError(
                    f"texts[{number}] has {len(row)} tokens, and {most} new ones are more than "
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
