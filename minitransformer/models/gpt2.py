"""GPT-2 (Radford et al. 2019), the decoder of "Attention Is All You Need" without an encoder.

Matches `transformers.models.gpt2.modeling_gpt2`.

B batch, T tokens, S tokens so far, E hidden size, C classes.
"""

from typing import Any

from torch import Tensor, nn

from minitransformer.layers.arrangement import arrange
from minitransformer.layers.cache import KVCache, LayerPast, layer_pasts, of_new_tokens
from minitransformer.layers.dropout import Dropout
from minitransformer.layers.feedforward import FeedForward
from minitransformer.layers.multihead import FusedSelfAttention
from minitransformer.layers.norm import LayerNorm
from minitransformer.layers.packing import Mask
from minitransformer.layers.positions import (
    LearnedPositions,
    count_positions,
    present_or_all,
)
from minitransformer.layers.rows import take_last
from minitransformer.models.base import Model, initialize
from minitransformer.models.classification import SequenceClassification
from minitransformer.models.generative import CausalLM
from minitransformer.models.gpt2_config import GPT2Config
from minitransformer.models.inputs import (
    check_attention_mask,
    check_ids,
    check_length,
    refuse_token_types,
)
from minitransformer.models.outputs import DecoderOutput, Recording, recording
from minitransformer.names import strict_names


class GPT2Layer(nn.Module):
    """Masked self-attention, then feed-forward; each reads a normed copy of what it adds to.

    This is the pre-norm order: nothing on the way from the embeddings to the last norm is ever
    normed itself (BERT, like the original paper, norms the sums).
    """

    def __init__(
        self,
        attention: FusedSelfAttention,
        feed_forward: FeedForward,
        hidden_size: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.attention = attention
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = feed_forward
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Mask, past: LayerPast | None) -> Tensor:
        """(B, T, E) to (B, T, E).

        Args:
            hidden: (B, T, E).
            mask: (B, 1, 1, S) bool, True at real tokens, or None where all are; of packed rows,
                where each begins.
            past: what this layer keeps of the tokens before.
        """
        own = None if past is None else past.own
        attended = self.attention(self.attention_norm(hidden), mask=mask, past=own)  # (B, T, E)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))


class GPT2Model(Model):
    """The decoder: words and positions, layers, and a norm at the end.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", without padding; or "eager", the formula.
    """

    config: GPT2Config
    config_class = GPT2Config

    def __init__(self, config: GPT2Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = LearnedPositions(config.max_position_embeddings, config.hidden_size)
        self.dropout = Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(
            GPT2Layer(
                FusedSelfAttention(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.attention_probs_dropout_prob,
                    attention,
                    scale=config.attention_scale(number),
                    causal=True,
                ),
                FeedForward(
                    config.hidden_size,
                    config.intermediate_size or 4 * config.hidden_size,
                    config.hidden_act,
                ),
                config.hidden_size,
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for number in range(config.num_hidden_layers)
        )
        self.final_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        initialize(self, config.initializer_range)
        # What 2 L matrices add up to should not grow with L ("Language Models are Unsupervised
        # Multitask Learners", section 2.3).
        deep = config.initializer_range / (2 * config.num_hidden_layers) ** 0.5
        layers: list[Any] = [*self.layers]
        for layer in layers:
            nn.init.normal_(layer.attention.output.weight, std=deep)
            nn.init.normal_(layer.feed_forward.contract.weight, std=deep)

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """Run over every token, each of which sees those before it.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            cache: what earlier calls have kept; these tokens come after those.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map, under any kernel.

        Raises:
            ValueError: an input's shape, dtype or values are off; see :mod:`..models.inputs`.
        """
        with recording(
            self.layers,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
            final=self.final_norm,
        ) as record:
            hidden = self.decode(input_ids, attention_mask, cache)
        return DecoderOutput(last_hidden_state=hidden, **record.fields())

    def decode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """The checked inputs through embeddings, layers and the last norm: (B, T, E)."""
        present = self.check_inputs(input_ids, attention_mask, cache)  # (B, T)
        if cache is not None:
            present = cache.extend(input_ids, present)  # (B, S)
        rows = arrange(present, packed=self.attention == "packed" and cache is None)

        length = input_ids.shape[1]  # T
        so_far = length if cache is None else cache.length  # S
        places = present_or_all(present, so_far, input_ids.device)  # (B, S)
        numbers = rows.enter(of_new_tokens(count_positions(places), length, cache))  # (B, T)
        hidden = self.words(rows.enter(input_ids)) + self.positions(numbers)  # (B, T, E)
        hidden = self.dropout(hidden)
        for layer, past in zip(self.layers, layer_pasts(cache, len(self.layers)), strict=True):
            hidden = layer(hidden, rows.mask, past)  # (B, T, E)
        return rows.leave(self.final_norm(hidden))

    def check_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None, cache: KVCache | None
    ) -> Tensor | None:
        """Check what came in; gives the mask as bool, or None where nothing is padded."""
        config = self.config
        check_ids("input_ids", input_ids, size=config.vocab_size, size_name="vocab_size")
        check_length(
            input_ids.shape[1] + (0 if cache is None else cache.length),
            longest=config.max_sequence_length,
            table_rows=config.max_position_embeddings,
        )
        # With a cache the padding token may be what was written last.
        pad_token_id = None if cache is not None and cache.length else config.pad_token_id
        return check_attention_mask(attention_mask, input_ids, pad_token_id)


class GPT2LMHeadModel(CausalLM):
    """GPT-2 with a score for each word that may come next; its head is the word embedding."""

    backbone_name = "transformer"
    config: GPT2Config
    config_class = GPT2Config

    def __init__(self, config: GPT2Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.transformer = GPT2Model(config, attention=attention)


class GPT2ForSequenceClassification(SequenceClassification):
    """GPT-2 with a score for each class, from the last token: the only one that has seen all.

    The last token is that of the mask; Hugging Face takes the last that is not the padding token.
    """

    backbone_name = "transformer"
    config: GPT2Config  # type: ignore[assignment]
    config_class = GPT2Config

    def __init__(self, config: GPT2Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.transformer = GPT2Model(config, attention=attention)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        initialize(self.score, config.initializer_range)

    def represent(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Recording]:
        """The last token's (B, E), and what was to be collected on the way."""
        refuse_token_types(token_type_ids, "GPT-2")
        with recording(
            self.transformer.layers,
            hidden_states=hidden_states,
            attentions=attentions,
            final=self.transformer.final_norm,
        ) as record:
            hidden = self.transformer.decode(input_ids, attention_mask)  # (B, T, E)
        return take_last(hidden, attention_mask), record

    def scores(self, representation: Tensor) -> Tensor:
        """(B, E) to (B, C)."""
        return self.score(representation)
