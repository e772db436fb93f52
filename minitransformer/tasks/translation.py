"""Translation, with models of one direction, several prefixes, or several target languages."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from minitransformer.files import optional_json
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.base import LanguageModel, Model
from minitransformer.models.marian import MarianMTModel
from minitransformer.names import listed, shortened
from minitransformer.tasks.base import as_texts, takes_any_inputs
from minitransformer.tasks.generation import CONFIG, Settings, task_settings, uses_defaults
from minitransformer.tasks.text_to_text import TextToTextGeneration, with_prefix
from minitransformer.tokenization import Tokenizer

_DIRECTION = re.compile(r"translation_(\w+?)_to_(\w+)")
_CODE = re.compile(r">>.*?<<")


def direction_of(task: str) -> tuple[str, str] | None:
    """("en", "de") for "translation_en_to_de"; None for a task without languages."""
    found = _DIRECTION.fullmatch(task)
    return None if found is None else (found[1], found[2])


class Translation(TextToTextGeneration):
    """Callable that translates texts; otherwise the same as :class:`TextToTextGeneration`.

    There are three ways to choose the target language. T5 has a prefix for each direction, defined
    in config.json: choose one by `pipeline("translation_en_to_de", path)` or by `src_lang` and
    `tgt_lang`. A Marian model of several target languages needs a code at the beginning of each
    text, as in ">>fra<< Good morning."; `tgt_lang="fra"` adds it. All other models translate
    between the two languages that they were trained on.

    Args:
        model: an encoder-decoder with a language-model head.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch; with beams, a text is several sequences.
        src_lang, tgt_lang: the default languages, named as in the checkpoint.

    Attributes:
        directions: the directions in config.json, such as ("en", "de"), and their settings.
        codes: the language codes in a Marian model's vocabulary, such as ">>fra<<".

    Raises:
        ValueError: the model is not such an encoder-decoder, it does not translate between the
            given languages, or the tokenizer has more tokens than the model has embeddings.
    """

    name = "translation"
    example = "MarianMTModel"
    result = "translation_text"

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 8,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        self.src_lang, self.tgt_lang = src_lang, tgt_lang
        self.directions = _directions(self.model)
        self.codes: list[str] = []
        if isinstance(model, MarianMTModel):
            self.codes = sorted(filter(_CODE.fullmatch, tokenizer.backend.get_vocab()))
        self._trained_on: tuple[str | None, str | None] = (None, None)  # not known of an object
        self._check_languages()

    @classmethod
    def from_pretrained(cls, path: str | Path, **settings: Any) -> Self:
        """Load model, tokenizer and the settings of the task from one checkpoint.

        Args:
            path, settings: as in :meth:`Task.from_pretrained`, and `src_lang` and `tgt_lang`.

        Raises:
            ValueError: it does not translate between the given languages.
        """
        task = super().from_pretrained(path, **settings)
        task._trained_on = _read_languages(path)
        task._check_languages()
        return task

    def _check_languages(self) -> None:
        """Refuse default languages that the model does not translate between."""
        if self.src_lang is not None or self.tgt_lang is not None:
            self._direction(None, None)

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        seed: int | None = None,
        truncation: bool | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Translate every text.

        Args:
            texts: one or several.
            src_lang, tgt_lang: the languages, named as in the checkpoint; see above.
            prefix: prepended to every text instead of the direction's.
            seed, truncation, fields: as in :class:`TextToTextGeneration`.

        Returns:
            A list of dicts with `translation_text`, one for each text. With several answers to each
            of several texts, a list of such lists.

        Warns:
            UserWarning: texts exceeded the model's maximum length and were truncated.

        Raises:
            TypeError: a text is not a string, or a field is unknown.
            ValueError: the target language is missing or not supported by the model; and as for
                :class:`TextToTextGeneration`.
        """
        settings = self._direction(src_lang, tgt_lang, prefix)
        sources = self._sources(as_texts("texts", texts), settings, prefix)
        batch = self._encode(sources, truncation=truncation)
        return self._answers(texts, batch, settings, seed, fields)

    @uses_defaults
    def stream(
        self,
        text: str,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> Iterator[str]:
        """Translate one text, and yield the translation piece by piece.

        Args:
            text: the source.
            src_lang, tgt_lang, prefix, seed, fields: as for `__call__`; only one answer, without
                beams. If the checkpoint sets beams, pass `num_beams=1`.

        Warns, Raises:
            As for `__call__`.
        """
        settings = self._direction(src_lang, tgt_lang, prefix)
        sources = self._sources(as_texts("text", [text]), settings, prefix)
        batch = self._encode(sources)
        return self._stream(batch.encodings[0].ids, settings.config, seed, fields)

    def _direction(
        self, src_lang: str | None, tgt_lang: str | None, prefix: str | None = None
    ) -> Settings:
        """The settings of the requested direction."""
        source, target = src_lang or self.src_lang, tgt_lang or self.tgt_lang
        if self.directions:
            if source is target is None and prefix is not None:
                return self.settings
            return self._named_direction(source, target)
        if self.codes and target is not None:
            code = f">>{target}<<"
            if code not in self.codes:
                raise ValueError(
                    f"tgt_lang={shortened(target)} has no language code; {self._all_codes()}"
                )
            return Settings(config=self.settings.config, prefix=f"{code} ")
        for name, given, trained in (
            ("src_lang", source, self._trained_on[0]),
            ("tgt_lang", target, self._trained_on[1]),
        ):
            if _is_language(given) and _is_language(trained) and given != trained:
                raise ValueError(
                    f"{name}={shortened(given)}, but the model was trained on {trained!r}; leave "
                    f"{name} out"
                )
        return self.settings

    def _named_direction(self, source: str | None, target: str | None) -> Settings:
        """The settings of a direction in config.json."""
        for languages, settings in self.directions.items():
            if languages == (source, target):
                return settings
        directions = listed(f"{one} to {other}" for one, other in self.directions)
        one, other = next(iter(self.directions))
        raise ValueError(
            f"src_lang={shortened(source)}, tgt_lang={shortened(target)}; the checkpoint has these "
            f"directions: {directions}. Choose one in the call, by src_lang={one!r}, "
            f"tgt_lang={other!r}, or by pipeline('translation_{one}_to_{other}', path); or pass "
            "your own prefix"
        )

    def _sources(self, texts: list[str], settings: Settings, prefix: str | None) -> list[str]:
        """The texts with the prefix or code of the direction."""
        sources = with_prefix(texts, settings, prefix)
        if not isinstance(self.model, MarianMTModel):
            return sources
        for number, (text, source) in enumerate(zip(texts, sources, strict=True)):
            found = _CODE.match(source)
            if found is None and len(self.codes) > 1:
                raise ValueError(
                    f"texts[{number}] has no target language: pass tgt_lang=..., or begin it with "
                    f"a code, as in '{self.codes[0]} {text:.20}'; {self._all_codes()}"
                )
            if found is not None and found[0] not in self.codes:
                raise ValueError(
                    f"texts[{number}] begins with {shortened(found[0])}, which is not a code of "
                    f"this model; {self._all_codes()}"
                )
            if source != text and _CODE.match(text):
                raise ValueError(
                    f"texts[{number}] begins with a code, and tgt_lang adds another; use only one"
                )
        return sources

    def _all_codes(self) -> str:
        if not self.codes:
            return "it has no codes"
        return f"the codes are: {listed(self.codes, limit=600)}"


def _directions(model: LanguageModel) -> dict[tuple[str, str], Settings]:
    """The directions of translation in config.json, such as ("en", "de"), to their settings.

    Raises:
        CheckpointError: a field is invalid.
    """
    tasks = model.task_specific_params.get("task_specific_params")
    return {
        direction: task_settings(model, task)
        for task in (tasks if isinstance(tasks, dict) else ())
        if (direction := direction_of(task)) is not None
    }


def _read_languages(path: str | Path) -> tuple[str | None, str | None]:
    """Source and target language in tokenizer_config.json; None where there is none."""
    directory = resolve_checkpoint(path, (CONFIG, "tokenizer_config.json"))
    content = optional_json(directory, "tokenizer_config.json")
    source, target = content.get("source_lang"), content.get("target_lang")
    return (
        source if isinstance(source, str) else None,
        target if isinstance(target, str) else None,
    )


def _is_language(name: str | None) -> bool:
    """Whether a name is a two-letter language code; longer ones may name groups of languages."""
    return name is not None and re.fullmatch("[a-z]{2}", name) is not None
