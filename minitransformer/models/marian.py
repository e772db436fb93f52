"""Marian (Junczys-Dowmunt et al. 2018), the translators of the OPUS-MT project: BART's blocks.

What differs from BART: positions are sinusoids, as in the original paper, and the embeddings are
not normed. Matches `transformers.models.marian.modeling_marian`.
"""

from dataclasses import dataclass

from torch import nn

from minitransformer.layers.positions import SinusoidalPositions
from minitransformer.models.bart import BartForConditionalGeneration, BartModel
from minitransformer.models.bart_config import BartFields


@dataclass(frozen=True, kw_only=True)
class MarianConfig(BartFields):
    """The sizes of a Marian translator; the defaults are those of Hugging Face's MarianConfig.

    The checkpoints differ from them: 6 layers, 8 heads, hidden_size 512, swish, scaled embeddings.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
    """

    vocab_size: int = 58_101
    bos_token_id: int | None = None
    eos_token_id: int | None = 0
    pad_token_id: int = 58_100
    decoder_start_token_id: int | None = 58_100


class MarianModel(BartModel):
    """BART's encoder and decoder with sinusoids and without a norm of the embeddings."""

    config: MarianConfig  # type: ignore[assignment]
    config_class = MarianConfig  # type: ignore[assignment]

    def build_positions(self) -> nn.Module:
        """The position module of this family, one for each stack."""
        return SinusoidalPositions(self.config.max_position_embeddings, self.config.hidden_size)

    def build_embedding_norm(self) -> nn.Module:
        """Nothing."""
        return nn.Identity()


class MarianMTModel(BartForConditionalGeneration):
    """Marian with a score for each word that may come next; its head is the word embedding."""

    config: MarianConfig  # type: ignore[assignment]
    config_class = MarianConfig  # type: ignore[assignment]
    model_class = MarianModel
