"""The fields of GPT-2."""

from dataclasses import dataclass
from typing import ClassVar

from minitransformer.layers.activations import activation_named
from minitransformer.models.config import ClassifierConfig


@dataclass(frozen=True, kw_only=True)
class GPT2Config(ClassifierConfig):
    """The sizes of a GPT-2; the defaults are those of gpt2.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
    """

    vocab_size: int = 50_257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None  # None: 4 * hidden_size
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1  # of what attention and feed-forward add
    embedding_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1024
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True  # by 1 / sqrt(head size)
    scale_attn_by_inverse_layer_idx: bool = False  # and by 1 / (number of the layer, from 1)
    bos_token_id: int | None = 50_256
    eos_token_id: int | None = 50_256
    pad_token_id: int | None = None

    known_elsewhere: ClassVar[dict[str, str]] = {
        **ClassifierConfig.known_elsewhere,
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "n_ctx": "max_position_embeddings",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
        "resid_pdrop": "hidden_dropout_prob",
        "embd_pdrop": "embedding_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
        "layer_norm_epsilon": "layer_norm_eps",
    }

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            minimum=1,
        )
        if self.intermediate_size is not None:
            self._require_integers("intermediate_size", minimum=1)
        self._require_tokens("bos_token_id", "eos_token_id", "pad_token_id", optional=True)
        self._require_probabilities(
            "hidden_dropout_prob", "embedding_dropout_prob", "attention_probs_dropout_prob"
        )
        self._require_positive("layer_norm_eps", "initializer_range")
        self._require_booleans("scale_attn_weights", "scale_attn_by_inverse_layer_idx")
        activation_named(self.hidden_act)
        self._require_whole_heads("num_attention_heads")
        self._require_labels()

    @property
    def max_sequence_length(self) -> int:
        """How many tokens fit into one row."""
        return self.max_position_embeddings

    def attention_scale(self, layer: int) -> float:
        """What the products of queries and keys are multiplied by, in layer 0, 1, 2, ..."""
        head_size = self.hidden_size // self.num_attention_heads
        scale = head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale
