"""Translation, by models of one direction, of several prefixes, or of several target languages."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from minitransformer.generation_config import GenerationConfig
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.base import Model
from minitransformer.models.marian import MarianMTModel
from minitransformer.tasks.base import as_texts
from minitransformer.tasks.generation import CONFIG, Settings, read_config, task_settings
from minitransformer.tasks.text_to_text import TextToTextGeneration, with_prefix
from minitransformer.tokenization import Tokenizer
from minitransformer.tokenization.loading import optional_json

_DIRECTION = re.compile(r"translation_(\w+?)_to_(\w+)")
_CODE = re.compile(r">>.*?<<")


def direction_of(task: str) -> tuple[str, str] | None:
    """("en", "de") of "translation_en_to_de"; None of any other task."""
    found = _DIRECTION.fullmatch(task)
    return None if found is None else (found[1], found[2])


class Translation(TextToTextGeneration):
    """Callable that translates texts; what it shares with :class:`TextToTextGeneration` is there.

    The target language is known in one of three ways. T5 has a prefix for each direction, which
    config.json names: the direction must be given, as `pipeline("translation_en_to_de", path)` or
    by `src_lang` and `tgt_lang`. A Marian of several target languages needs a code at the beginning
    of each text, ">>fra<< Good morning.", or `tgt_lang="fra"`, which puts it there. All other
    models translate between the two languages that they were trained on.

    Args:
        model: an encoder-decoder with a language-model head.
        tokenizer: its tokenizer.
        batch_size: texts in a batch, at most; with beams, each is as many sequences.
        src_lang, tgt_lang: the languages of a call that does not name them, in the checkpoint's
            words.

    Attributes:
        directions: those that config.json names, such as ("en", "de"), with their settings.
        codes: those that a Marian's vocabulary has, such as ">>fra<<".

    Raises:
        ValueError: the model is no such encoder-decoder, or the tokenizer has more tokens than the
            model has embeddings.
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
        self.directions: dict[tuple[str, str], Settings] = {}
        self.codes: list[str] = []
        if isinstance(model, MarianMTModel):
            self.codes = sorted(filter(_CODE.fullmatch, tokenizer.backend.get_vocab()))
        self._trained_on: tuple[str | None, str | None] = (None, None)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        optimize: bool = True,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> Self:
        """Load model, tokenizer and the settings of the task from one checkpoint.

        Raises:
            ValueError: it does not translate between the languages that are given.
        """
        task = super().from_pretrained(path, device=device, optimize=optimize)
        task.src_lang, task.tgt_lang = src_lang, tgt_lang
        task.directions = _read_directions(path, task.model.generation_config)
        task._trained_on = _read_languages(path)
        if src_lang is not None or tgt_lang is not None:
            task._direction(None, None)
        return task

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> list[Any]:
        """Translate every text.

        Args:
            texts: one or several.
            src_lang, tgt_lang: the languages, in the checkpoint's words; see above.
            prefix: put before every text in place of the direction's.
            seed, fields: as in :class:`TextToTextGeneration`.

        Returns:
            A list of dicts with `translation_text`, one for each text. With several answers to each
            of several texts, a list of them for each text.

        Warns:
            UserWarning: texts were longer than the model can take, and were truncated.

        Raises:
            TypeError: a text is no str, or a field is unknown.
            ValueError: the target language is not known, or not one of the model's; and as in
                :class:`TextToTextGeneration`.
        """
        settings = self._direction(src_lang, tgt_lang, prefix)
        batch = self._encode(self._sources(as_texts("texts", texts), settings, prefix))
        return self._answers(texts, batch, settings, seed, fields)

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
        """Translate one text, and give the translation piece by piece, as it comes.

        Args:
            text: the source.
            src_lang, tgt_lang, prefix, seed, fields: as in a call; one answer, without beams: where
                the checkpoint asks for some, pass `num_beams=1`.

        Warns, Raises:
            As a call does.
        """
        settings = self._direction(src_lang, tgt_lang, prefix)
        batch = self._encode(self._sources(as_texts("text", [text]), settings, prefix))
        return self._stream(batch.encodings[0].ids, settings.config, seed, fields)

    def _direction(
        self, src_lang: str | None, tgt_lang: str | None, prefix: str | None = None
    ) -> Settings:
        """The settings of the direction that is asked for."""
        source, target = src_lang or self.src_lang, tgt_lang or self.tgt_lang
        if self.directions:
            if source is target is None and prefix is not None:
                return self.settings
            return self._named_direction(source, target)
        if self.codes and target is not None:
            code = f">>{target}<<"
            if code not in self.codes:
                raise ValueError(f"tgt_lang={target!r} has no code here; {self._every_code()}")
            return Settings(config=self.settings.config, prefix=f"{code} ")
        for name, asked, trained in (
            ("src_lang", source, self._trained_on[0]),
            ("tgt_lang", target, self._trained_on[1]),
        ):
            if _is_language(asked) and _is_language(trained) and asked != trained:
                raise ValueError(f"{name}={asked!r}, but the model was trained on {trained!r}")
        return self.settings

    def _named_direction(self, source: str | None, target: str | None) -> Settings:
        """One of those that config.json names."""
        for languages, settings in self.directions.items():
            if languages == (source, target):
                return settings
        every = ", ".join(f"{one} to {other}" for one, other in self.directions)
        one, other = next(iter(self.directions))
        raise ValueError(
            f"src_lang={source!r}, tgt_lang={target!r}; the checkpoint names these directions: "
            f"{every}. Choose one in the call, by src_lang={one!r}, tgt_lang={other!r}, or by "
            f"pipeline('translation_{one}_to_{other}', path); or pass a prefix of your own"
        )

    def _sources(self, texts: list[str], settings: Settings, prefix: str | None) -> list[str]:
        """The texts with the prefix or code that names the direction."""
        sources = with_prefix(texts, settings, prefix)
        if not isinstance(self.model, MarianMTModel):
            return sources
        for number, (text, source) in enumerate(zip(texts, sources, strict=True)):
            found = _CODE.match(source)
            if found is None and len(self.codes) > 1:
                raise ValueError(
                    f"texts[{number}] does not say into which language: pass tgt_lang=..., or "
                    f"begin it with a code, as in '{self.codes[0]} {text:.20}'; "
                    f"{self._every_code()}"
                )
            if found is not None and found[0] not in self.codes:
                raise ValueError(
                    f"texts[{number}] begins with {found[0]!r}, which is no token of this model; "
                    f"{self._every_code()}"
                )
            if source != text and _CODE.match(text):
                raise ValueError(f"texts[{number}] has a code, and gets another by tgt_lang")
        return sources

    def _every_code(self) -> str:
        return f"the codes are: {', '.join(self.codes)}" if self.codes else "it has no codes"


def _read_directions(path: str | Path, config: GenerationConfig) -> dict[tuple[str, str], Settings]:
    """The directions of translation that config.json names: ("en", "de") to its settings.

    Args:
        path: of the checkpoint, or its name on the hub.
        config: the checkpoint's generation config.

    Raises:
        CheckpointError: config.json cannot be read, or a field has no meaning.
    """
    content, source = read_config(path)
    tasks = content.get("task_specific_params")
    return {
        direction: task_settings(content, source, task, config)
        for task in (tasks if isinstance(tasks, dict) else ())
        if (direction := direction_of(task)) is not None
    }


def _read_languages(path: str | Path) -> tuple[str | None, str | None]:
    """The source and target language of a translator, where its tokenizer_config.json has them."""
    directory = resolve_checkpoint(path, (CONFIG, "tokenizer_config.json"))
    content = optional_json(directory, "tokenizer_config.json")
    source, target = content.get("source_lang"), content.get("target_lang")
    return (
        source if isinstance(source, str) else None,
        target if isinstance(target, str) else None,
    )


def _is_language(name: str | None) -> bool:
    """Whether a name is that of one language: longer ones may be those of groups."""
    return name is not None and re.fullmatch("[a-z]{2}", name) is not None
