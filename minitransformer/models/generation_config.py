"""How text is generated: the fields of Hugging Face's GenerationConfig that are built here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from minitransformer.models.config import LARGEST, is_number
from minitransformer.names import unexpected_name

# Fields of Hugging Face that are not built here and would change what is generated, each with the
# values that leave it off; None always does.
NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
    "constraints": (),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "force_words_ids": (),
    "forced_decoder_ids": (),
    "guidance_scale": (1.0,),
    "low_memory": (False,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (),
    "remove_invalid_values": (False,),
    "sequence_bias": (),
    "token_healing": (False,),
    "top_h": (),
    "use_mtp": (False,),
    "watermarking_config": (),
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a model writes: how long, by which search, and what is forbidden or forced.

    Names, meanings and defaults are those of transformers, with one difference: the number of new
    tokens has no default. Lists become tuples. `None` leaves a field off.

    Raises:
        TypeError: a field is unknown, or not built here.
        ValueError: a value has no meaning, or two contradict each other.
    """

    # How long
    max_new_tokens: int | None = None
    max_length: int | None = None  # the prompt counted in; of an encoder-decoder, the start token
    min_new_tokens: int | None = None
    min_length: int = 0  # counted as max_length is
    stop_strings: tuple[str, ...] | None = None  # a row ends when one of these was written
    # Which search
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | str = False  # True: at the first num_beams ends; "never": only when sure
    length_penalty: float = 1.0  # scores are divided by length ** this: above 0 favours length
    # What may be drawn, where do_sample is set
    temperature: float = 1.0
    top_k: int = 50  # 0: all
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    # What changes the scores
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None  # start, factor
    renormalize_logits: bool = False
    # Tokens with a role
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int | None = None

    # Names that users bring from elsewhere, and the field that they mean.
    known_elsewhere: ClassVar[dict[str, str]] = {
        "beam_size": "num_beams",
        "max_tokens": "max_new_tokens",
        "n": "num_return_sequences",
        "sample": "do_sample",
        "stop": "stop_strings",
    }

    def __new__(cls, *_arguments: Any, **values: Any) -> Self:
        # The generated __init__ would refuse an unknown name too, but without the right one.
        check_field_names(values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._make_tuples()
        self._check_counts()
        self._check_numbers()
        self._check_tokens()
        self._check_together()

    @classmethod
    def from_model_config(cls, config: Any) -> Self:
        """What a model's config says of generation: its tokens with a role."""
        names = {field.name for field in fields(cls)} & {field.name for field in fields(config)}
        return cls(**{name: getattr(config, name) for name in names})

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a row; none where it is empty."""
        return as_tuple(self.eos_token_id)

    def _make_tuples(self) -> None:
        """Lists, as JSON has them, become tuples, and empty ones None.

        What is frozen must not change inside.
        """
        words = self.bad_words_ids
        if isinstance(words, Sequence) and all(isinstance(word, list) for word in words):
            object.__setattr__(self, "bad_words_ids", tuple(map(tuple, words)) or None)
        if isinstance(self.stop_strings, str):
            object.__setattr__(self, "stop_strings", (self.stop_strings,))
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value) or None)

    def _check_counts(self) -> None:
        for name, minimum in (
            ("max_new_tokens", 1),
            ("max_length", 1),
            ("min_new_tokens", 0),
            ("min_length", 0),
            ("num_beams", 1),
            ("num_return_sequences", 1),
            ("top_k", 0),
            ("no_repeat_ngram_size", 0),
            ("encoder_no_repeat_ngram_size", 0),
        ):
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if type(value) is not int or not minimum <= value <= LARGEST:
                raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")

    def _check_numbers(self) -> None:
        for name in ("do_sample", "renormalize_logits"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ValueError(f"early_stopping={self.early_stopping!r}; True, False or 'never'")
        if not is_number(self.length_penalty):
            raise ValueError(f"length_penalty={self.length_penalty!r} must be a finite number")
        for name in ("temperature", "repetition_penalty", "encoder_repetition_penalty"):
            value = getattr(self, name)
            if not is_number(value) or value <= 0:
                greedy = "; for the likeliest token each time: do_sample=False"
                hint = greedy if name == "temperature" and value == 0 else ""
                raise ValueError(f"{name}={value!r} must be a positive, finite number{hint}")
        for name in ("top_p", "min_p", "typical_p"):
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not is_number(value) or not 0 <= value <= 1 or (value == 0 and name == "typical_p"):
                raise ValueError(f"{name}={value!r} must be a number from 0 to 1")
        decay = self.exponential_decay_length_penalty
        if decay is not None and not (
            isinstance(decay, tuple)
            and len(decay) == 2
            and type(decay[0]) is int
            and is_number(decay[1])
            and decay[1] > 0
        ):
            raise ValueError(
                f"exponential_decay_length_penalty={decay!r} must be a number of new tokens and "
                "a positive factor, such as (20, 1.05)"
            )

    def _check_tokens(self) -> None:
        for name in (
            "pad_token_id",
            "bos_token_id",
            "decoder_start_token_id",
            "forced_bos_token_id",
            "eos_token_id",
            "forced_eos_token_id",
            "suppress_tokens",
            "begin_suppress_tokens",
        ):
            value = getattr(self, name)
            wrong = value is not None and not _are_tokens(as_tuple(value))
            if wrong or (isinstance(value, tuple) and name not in _SEVERAL_TOKENS):
                several = ", or several of them" if name in _SEVERAL_TOKENS else ""
                raise ValueError(f"{name}={value!r} must be a token's id{several}")
        words = self.bad_words_ids
        if words is not None and not (
            isinstance(words, tuple)
            and words
            and all(isinstance(word, tuple) and _are_tokens(word) for word in words)
        ):
            raise ValueError(f"bad_words_ids={words!r:.200} must be a list of lists of ids")
        strings = self.stop_strings
        if strings is not None and not (
            isinstance(strings, tuple) and strings and all(_is_text(text) for text in strings)
        ):
            raise ValueError(f"stop_strings={strings!r} must be a text, or a list of texts")

    def _check_together(self) -> None:
        wanted = self.num_return_sequences
        if wanted > 1 and self.num_beams == 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences={wanted}, but greedy search finds one; set num_beams to at "
                f"least {wanted}, or do_sample=True"
            )
        if wanted > self.num_beams > 1:
            raise ValueError(
                f"num_return_sequences={wanted} is more than num_beams={self.num_beams} can give"
            )
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = as_tuple(getattr(self, name))
            if forced and set(forced) <= set(self.suppress_tokens or ()):
                raise ValueError(f"{name}={forced} is forced and, in suppress_tokens, forbidden")


_OPTIONAL = {field.name for field in fields(GenerationConfig) if field.default is None}
_SEVERAL_TOKENS = {
    "eos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
}


def check_field_names(names: Any) -> None:
    """Refuse names that are no fields of :class:`GenerationConfig`.

    Raises:
        TypeError: one is not; the message says the nearest that is, or that it is not built.
    """
    known = [field.name for field in fields(GenerationConfig)]
    for name in names:
        if name in NOT_BUILT:
            raise TypeError(f"{name} is not built here; the fields are: {', '.join(known)}")
        if name not in known:
            guess = GenerationConfig.known_elsewhere.get(name)
            raise TypeError(unexpected_name("GenerationConfig field", name, known, guess))


def as_tuple(tokens: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """One id, several or none, as a tuple."""
    if tokens is None:
        return ()
    return tokens if isinstance(tokens, tuple) else (tokens,)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_tokens(ids: tuple[object, ...]) -> bool:
    return bool(ids) and all(type(i) is int and 0 <= i <= LARGEST for i in ids)
