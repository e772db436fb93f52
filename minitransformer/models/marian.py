"""Marian (Junczys-Dowmunt et al. 2018), the translators of the OPUS-MT project: BART's blocks.

What differs from BART: positions are sinusoids, as in the original paper, and the embeddings are
not normalized. Matches `transformers.models.marian.modeling_marian`.
"""

from dataclasses import dataclass

from torch import nn

from minitransformer.layers.positional_embeddings import SinusoidalPositions
from minitransformer.models.bart import BartFields, BartForConditionalGeneration, BartModel


@dataclass(frozen=True, kw_only=True)
class MarianConfig(BartFields):
    """The sizes of a Marian translator; the defaults are those of Hugging Face's MarianConfig.

    The checkpoints differ from them: 6 layers, 8 heads, hidden_size 512, swish, scaled embeddings.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    vocab_size: int = 58_101
    bos_token_id: int | None = None
    eos_token_id: int | None = 0
    pad_token_id: int = 58_100
    decoder_start_token_id: int | None = 58_100


class MarianModel(BartModel):
    """BART's encoder and decoder with sinusoids and without a norm of the embeddings."""

    config_class = MarianConfig

    def build_position_embedding(self) -> nn.Module:
        """The position module of this family, one for each stack."""
        return SinusoidalPositions(self.config.max_position_embeddings, self.config.hidden_size)

    def build_embedding_norm(self) -> nn.Module:
        """No norm."""
        return nn.Identity()


class MarianMTModel(BartForConditionalGeneration):
    """Marian with a score for each token that may come next."""

    config_class = MarianConfig
    backbone_class = MarianModel
