"""The fields of T5."""

from dataclasses import dataclass
from typing import ClassVar

from minitransformer.layers.activations import ACTIVATIONS
from minitransformer.models.config import Config


@dataclass(frozen=True, kw_only=True)
class T5Config(Config):
    """The sizes of a T5; the defaults are those of google-t5/t5-small.

    Version 1.1 has `feed_forward_proj="gated-gelu"`, and a head of its own whose input is not
    scaled: `tie_word_embeddings=False`, `scale_decoder_outputs=False`.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
    """

    vocab_size: int = 32_128
    hidden_size: int = 512
    head_size: int = 64  # num_attention_heads * head_size need not be hidden_size
    num_hidden_layers: int = 6  # of the encoder
    num_decoder_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    feed_forward_proj: str = "relu"  # an activation, or "gated-" and an activation
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    hidden_dropout_prob: float = 0.1  # of everything: hidden values, weights of attention
    layer_norm_eps: float = 1e-6
    initializer_factor: float = 1.0
    tie_word_embeddings: bool = True  # whether the head is the word embedding
    scale_decoder_outputs: bool = True  # by 1 / sqrt(hidden_size), before the head
    eos_token_id: int | None = 1
    pad_token_id: int = 0
    decoder_start_token_id: int | None = 0

    known_elsewhere: ClassVar[dict[str, str]] = {
        "d_model": "hidden_size",
        "d_kv": "head_size",
        "d_ff": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "dropout_rate": "hidden_dropout_prob",
        "layer_norm_epsilon": "layer_norm_eps",
        "hidden_act": "feed_forward_proj",
    }

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "head_size",
            "num_hidden_layers",
            "num_decoder_layers",
            "num_attention_heads",
            "intermediate_size",
            minimum=1,
        )
        # Two directions, each with a half of near distances and a half of far ones.
        self._require_integers("relative_attention_num_buckets", minimum=4)
        self._require_integers(
            "relative_attention_max_distance",
            minimum=self.relative_attention_num_buckets // 2 + 1,
        )
        self._require_tokens("pad_token_id")
        self._require_tokens("eos_token_id", "decoder_start_token_id", optional=True)
        self._require_probabilities("hidden_dropout_prob")
        self._require_positive("layer_norm_eps", "initializer_factor")
        self._require_booleans("tie_word_embeddings", "scale_decoder_outputs")
        if not isinstance(self.feed_forward_proj, str) or self.activation not in ACTIVATIONS:
            raise ValueError(
                f"feed_forward_proj={self.feed_forward_proj!r} is unknown; choose one of "
                f"{sorted(ACTIVATIONS)}, or 'gated-' and one of these"
            )

    @property
    def activation(self) -> str:
        """The activation of the feed-forward; "gated-gelu" means the approximation by tanh."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.is_gated and name == "gelu" else name

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward is gated."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def max_sequence_length(self) -> None:
        """Any number of tokens fits: there is no table of positions that could end."""
        return None
