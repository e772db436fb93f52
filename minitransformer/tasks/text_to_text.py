"""Text to text: one text in, another out. A summary is one such task."""

from collections.abc import Iterator, Sequence
from typing import Any

from minitransformer.models.base import Seq2SeqLM
from minitransformer.tasks.base import as_texts
from minitransformer.tasks.generation import GenerationTask, Settings, checked_prefix
from minitransformer.tokenization import BatchEncoding


class TextToTextGeneration(GenerationTask):
    """Callable that generates a text from each text, with an encoder-decoder.

    The texts are those that transformers' `generate` and `decode` give, in the form that its
    pipelines for this had. The fields of :class:`GenerationConfig` say how text is generated; those
    of the call go before those of the checkpoint. Where neither gives a number of tokens, that is
    an error.

    A prefix that the checkpoint names, such as T5's "summarize: ", is put before every text. For
    other prefixes there is this task: `pipeline("text2text-generation", path)("cola sentence: He
    go home.", max_new_tokens=5)`.

    Args:
        model: an encoder-decoder with a language-model head.
        tokenizer: its tokenizer.
        batch_size: texts in a batch, at most; with beams, each is as many sequences.

    Raises:
        ValueError: the model is no such encoder-decoder, or the tokenizer has more tokens than the
            model has embeddings.
    """

    name = "text2text-generation"
    model_class = Seq2SeqLM
    example = "T5ForConditionalGeneration"
    result = "generated_text"
    model: Seq2SeqLM

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        prefix: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Generate a text from every text.

        Args:
            texts: one or several.
            prefix: put before every text in place of the checkpoint's.
            seed: makes sampling reproducible; the result depends on it, on the texts and on the
                batch size.
            fields: of GenerationConfig, such as `max_new_tokens=50`, `num_beams=4` or
                `num_return_sequences=3`.

        Returns:
            A list of dicts with the generated text, one for each text. With several answers to each
            of several texts, a list of them for each text.

        Warns:
            UserWarning: texts were longer than the model can take, and were truncated.

        Raises:
            TypeError: a text is no str, or a field is unknown.
            ValueError: a text is empty or begins with the prefix already, no number of tokens is
                given, or a field has no meaning.
        """
        batch = self._encode(with_prefix(as_texts("texts", texts), self.settings, prefix))
        return self._answers(texts, batch, self.settings, seed, fields)

    def stream(
        self, text: str, *, prefix: str | None = None, seed: int | None = None, **fields: Any
    ) -> Iterator[str]:
        """Generate a text from one text, and give it piece by piece, as it comes.

        Everything is checked at once; the model runs when a piece is asked for. Ctrl-C ends the
        iterator after what was generated so far.

        Args:
            text: the source.
            prefix, seed, fields: as in a call; one answer, without beams: where the checkpoint
                asks for some, pass `num_beams=1`.

        Warns, Raises:
            As a call does.
        """
        batch = self._encode(with_prefix(as_texts("text", [text]), self.settings, prefix))
        return self._stream(batch.encodings[0].ids, self.settings.config, seed, fields)

    def _answers(
        self,
        texts: str | Sequence[str],
        batch: BatchEncoding,
        settings: Settings,
        seed: int | None,
        fields: dict[str, Any],
    ) -> list[Any]:
        """What is generated for each sequence of the batch, in the form in which texts came."""
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
    """Callable that summarizes texts; everything else is as in :class:`TextToTextGeneration`.

    Number of beams, least and greatest length, and T5's "summarize: " are those that config.json
    gives for "summarization", where it does.
    """

    name = "summarization"
    example = "BartForConditionalGeneration"
    result = "summary_text"


def with_prefix(texts: list[str], settings: Settings, prefix: str | None) -> list[str]:
    """Put the prefix, or that of the settings, before every text.

    Raises:
        TypeError: it is no text.
        ValueError: a text begins with it already.
    """
    before = checked_prefix(settings.prefix if prefix is None else prefix)
    for number, text in enumerate(texts):
        if before.strip() and text.startswith(before.strip()):
            raise ValueError(
                f"texts[{number}] begins with the prefix {before!r}, which is put before every "
                "text; leave it out, or pass prefix=''"
            )
    return [before + text for text in texts]
