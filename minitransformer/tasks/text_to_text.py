"""Text-to-text generation, and summarization as one such task."""

from collections.abc import Iterator, Sequence
from typing import Any

from minitransformer.models.base import Seq2SeqLM
from minitransformer.names import shortened
from minitransformer.tasks.base import as_texts, takes_any_inputs
from minitransformer.tasks.generation import GenerationTask, Settings, checked_prefix, uses_defaults
from minitransformer.tokenization import BatchEncoding


class TextToTextGeneration(GenerationTask):
    """Callable that generates a text from each text with an encoder-decoder.

    The texts are those of transformers' `generate` and `decode`, in the format of its former
    pipelines for this task. The fields of :class:`GenerationConfig` control the generation; those
    of the call override those of the checkpoint. The number of tokens must be set in one of them.

    If the checkpoint defines a prefix for the task, such as T5's "summarize: ", it is prepended to
    every text. Texts may also contain a prefix of their own: `pipeline("text2text-generation",
    path)("cola sentence: He go home.", max_new_tokens=5)`.

    Args:
        model: an encoder-decoder with a language-model head.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch; with beams, a text is several sequences.

    Raises:
        ValueError: the model is not such an encoder-decoder, or the tokenizer has more tokens than
            the model has embeddings.
    """

    name = "text2text-generation"
    model_class = Seq2SeqLM
    example = "T5ForConditionalGeneration"
    result = "generated_text"
    one_is_a_list = True
    model: Seq2SeqLM

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        prefix: str | None = None,
        seed: int | None = None,
        truncation: bool | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Generate a text from every text.

        Args:
            texts: one or several.
            prefix: prepended to every text instead of the checkpoint's.
            seed: makes sampling reproducible, for the same texts and batch size.
            truncation: True truncates long texts without a warning, False makes them an error.
            fields: of GenerationConfig, such as `max_new_tokens=50`, `num_beams=4` or
                `num_return_sequences=3`.

        Returns:
            A list of dicts with the generated text, one for each text. With several answers to each
            of several texts, a list of such lists.

        Warns:
            UserWarning: texts exceeded the model's maximum length and were truncated.

        Raises:
            TypeError: a text is not a string, or a field is unknown.
            ValueError: a text is empty or already begins with the prefix, the number of tokens is
                not set, or a field is invalid.
        """
        sources = with_prefix(as_texts("texts", texts), self.settings, prefix)
        batch = self._encode(sources, truncation=truncation)
        return self._answers(texts, batch, self.settings, seed, fields)

    @uses_defaults
    def stream(
        self, text: str, *, prefix: str | None = None, seed: int | None = None, **fields: Any
    ) -> Iterator[str]:
        """Generate a text from one text, and yield it piece by piece.

        The arguments are checked at once; the model runs when the next piece is requested. Ctrl-C
        ends the iterator after the text generated so far.

        Args:
            text: the source.
            prefix, seed, fields: as for `__call__`; only one answer, without beams. If the
                checkpoint sets beams, pass `num_beams=1`.

        Warns, Raises:
            As for `__call__`.
        """
        sources = with_prefix(as_texts("text", [text]), self.settings, prefix)
        batch = self._encode(sources)
        return self._stream(batch.encodings[0].ids, self.settings.config, seed, fields)

    def _answers(
        self,
        texts: str | Sequence[str],
        batch: BatchEncoding,
        settings: Settings,
        seed: int | None,
        fields: dict[str, Any],
    ) -> list[Any]:
        """The answers for a batch, in the form of `texts`: one text or a list."""
        ids = [encoding.ids for encoding in batch.encodings]
        answers = [
            [{self.result: self.tokenizer.decode(new, skip_special_tokens=True)} for new in several]
            for several in self._generate(ids, settings.config, seed, fields)
        ]
        if isinstance(texts, str):
            return answers[0]
        one_each = all(len(several) == 1 for several in answers)
        return [several[0] for several in answers] if one_each else answers


class Summarization(TextToTextGeneration):
    """Callable that summarizes texts; otherwise the same as :class:`TextToTextGeneration`.

    If config.json has parameters for "summarization", such as the number of beams, the length
    limits and T5's prefix "summarize: ", they apply.
    """

    name = "summarization"
    example = "BartForConditionalGeneration"
    result = "summary_text"


def with_prefix(texts: list[str], settings: Settings, prefix: str | None) -> list[str]:
    """Prepend the prefix, or if it is None that of the settings, to every text.

    Raises:
        TypeError: the prefix is not a string.
        ValueError: a text already begins with it.
    """
    before = checked_prefix(settings.prefix if prefix is None else prefix)
    for number, text in enumerate(texts):
        if before.strip() and text.startswith(before.strip()):
            raise ValueError(
                f"texts[{number}] begins with the prefix {shortened(before)}, which is added to "
                "every text; remove it from the text, or pass prefix=''"
            )
    return [before + text for text in texts]
