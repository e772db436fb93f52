"""The fields of BART, and of Marian, which shares them."""

from dataclasses import dataclass, field
from typing import ClassVar

from minitransformer.layers.activations import activation_named
from minitransformer.models.config import ClassifierConfig, Config


@dataclass(frozen=True, kw_only=True)
class BartFields(Config):
    """The fields that BART and Marian share; the defaults are those of facebook/bart-large.

    Encoder and decoder may differ in layers, heads and feed-forward.
    """

    vocab_size: int = 50_265
    hidden_size: int = 1024
    num_hidden_layers: int = 12  # of the encoder
    num_decoder_layers: int = 12
    num_attention_heads: int = 16  # of the encoder
    num_decoder_attention_heads: int = 16
    intermediate_size: int = 4096  # of the encoder
    decoder_intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    activation_dropout: float = 0.0  # between the two maps of the feed-forward
    max_position_embeddings: int = 1024  # usable positions, in either stack
    scale_embedding: bool = False  # whether words are multiplied by sqrt(hidden_size)
    initializer_range: float = 0.02
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    pad_token_id: int = 1
    decoder_start_token_id: int | None = 2

    known_elsewhere: ClassVar[dict[str, str]] = {
        "d_model": "hidden_size",
        "encoder_layers": "num_hidden_layers",
        "decoder_layers": "num_decoder_layers",
        "encoder_attention_heads": "num_attention_heads",
        "decoder_attention_heads": "num_decoder_attention_heads",
        "encoder_ffn_dim": "intermediate_size",
        "decoder_ffn_dim": "decoder_intermediate_size",
        "activation_function": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "init_std": "initializer_range",
    }

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_decoder_layers",
            "num_attention_heads",
            "num_decoder_attention_heads",
            "intermediate_size",
            "decoder_intermediate_size",
            "max_position_embeddings",
            minimum=1,
        )
        self._require_tokens("pad_token_id")
        self._require_tokens(
            "bos_token_id", "eos_token_id", "decoder_start_token_id", optional=True
        )
        self._require_probabilities(
            "hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout"
        )
        self._require_positive("initializer_range")
        self._require_booleans("scale_embedding")
        activation_named(self.hidden_act)
        self._require_whole_heads("num_attention_heads", "num_decoder_attention_heads")

    @property
    def max_sequence_length(self) -> int:
        """How many tokens fit into one row, of the source or of what is written."""
        return self.max_position_embeddings


@dataclass(frozen=True, kw_only=True)
class BartConfig(BartFields, ClassifierConfig):
    """The sizes of a BART; the defaults are those of facebook/bart-large.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
    """

    classifier_dropout: float = 0.0  # of the classification head
    id2label: dict[int, str] = field(
        default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, hash=False
    )

    known_elsewhere: ClassVar[dict[str, str]] = {
        **BartFields.known_elsewhere,
        **ClassifierConfig.known_elsewhere,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_probabilities("classifier_dropout")
        self._require_labels()
