"""BERT (Devlin et al. 2018), the encoder of "Attention Is All You Need" with learned positions.

Matches `transformers.models.bert.modeling_bert`. RoBERTa and DistilBERT import from here.

B batch, T tokens, P tokens wanted of the last layer, E hidden size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitransformer.layers.arrangement import arrange
from minitransformer.layers.dropout import Dropout
from minitransformer.layers.feedforward import FeedForward
from minitransformer.layers.multihead import MultiHeadAttention
from minitransformer.layers.norm import LayerNorm
from minitransformer.layers.packing import Mask
from minitransformer.layers.positions import LearnedPositions, count_positions
from minitransformer.layers.rows import Wanted, first_tokens, take_rows
from minitransformer.models.base import Model, initialize
from minitransformer.models.config import EncoderConfig
from minitransformer.models.inputs import check_attention_mask, check_ids, check_length
from minitransformer.models.outputs import EncoderOutput, recording
from minitransformer.names import strict_names


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """The sizes of a BERT; the defaults are those of bert-base-uncased.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
    """

    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None  # of classification heads; None: hidden_dropout_prob

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("type_vocab_size", minimum=1)
        self._require_positive("layer_norm_eps")
        if self.classifier_dropout is not None:
            self._require_probabilities("classifier_dropout")

    @property
    def head_dropout(self) -> float:
        """The dropout of classification heads."""
        return (
            self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout
        )


class BertEmbeddings(nn.Module):
    """What each token is, where it stands, and which of two texts it belongs to, added up.

    Args:
        vocab_size, hidden_size, type_vocab_size: rows and width of the tables.
        positions: module that turns the numbers of tokens, (B, T), into (B, T, E).
        pad_token_id: the token whose vector gets no gradient from here.
        eps: of the norm.
        dropout: probability.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        type_vocab_size: int,
        positions: nn.Module,
        pad_token_id: int,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.token_types = nn.Embedding(type_vocab_size, hidden_size)
        self.positions = positions
        self.norm = LayerNorm(hidden_size, eps)
        self.dropout = Dropout(dropout)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None, positions: Tensor
    ) -> Tensor:
        """(B, T) three times: ids, types (None: all 0), numbers of tokens. Gives (B, T, E)."""
        if token_type_ids is None:
            token_types = self.token_types.weight[0]  # (E,)
        else:
            token_types = self.token_types(token_type_ids)  # (B, T, E)
        embedded = self.words(input_ids) + token_types + self.positions(positions)  # (B, T, E)
        return self.dropout(self.norm(embedded))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each is added to its input and the sum is normed.

    This is the post-norm order of the original paper (GPT-2 norms before, not after).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str,
        dropout: float,
        attention_dropout: float,
        eps: float,
        attention: str,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(hidden_size, num_heads, attention_dropout, attention)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(
            hidden_size, intermediate_size, activation, activation_dropout
        )
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Mask, wanted: Tensor | None = None) -> Tensor:
        """(B, T, E) to (B, T, E), or to (B, P, E) for the wanted tokens alone.

        Args:
            hidden: (B, T, E).
            mask: (B, 1, 1, T) bool, True = attend, or None; of packed rows, where each begins.
            wanted: (B, P) int64, places of tokens. All others still serve as keys and values, so
                the wanted ones come out exactly as they would among all.
        """
        tokens = hidden if wanted is None else take_rows(hidden, wanted)  # (B, P, E)
        attended = self.attention(tokens, hidden, mask)  # (B, P, E)
        tokens = self.attention_norm(tokens + self.dropout(attended))
        return self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))


class Pooler(nn.Module):
    """tanh(W x + b) of the first real token, [CLS].

    Hugging Face takes place 0, which is padding where a row is padded on the left.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """The first token's (B, E) to (B, E)."""
        return torch.tanh(self.dense(first))


class BertModel(Model):
    """The encoder: embeddings, then layers, and a pooler that a task may want.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", without padding; or "eager", the formula.
        add_pooling_layer: False leaves out the pooler.
    """

    config: BertConfig
    config_class = BertConfig
    layer_class: ClassVar[type[EncoderLayer]] = EncoderLayer

    def __init__(
        self, config: BertConfig, *, attention: str = "sdpa", add_pooling_layer: bool = True
    ) -> None:
        super().__init__(config, attention=attention)
        self.embeddings: Any = self.build_embeddings(config)
        self.layers = nn.ModuleList(
            self.layer_class(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                config.hidden_act,
                config.hidden_dropout_prob,
                config.attention_probs_dropout_prob,
                config.layer_norm_eps,
                attention,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        initialize(self, config.initializer_range)

    def build_embeddings(self, config: Any) -> nn.Module:
        """The embeddings of this family."""
        return BertEmbeddings(
            config.vocab_size,
            config.hidden_size,
            config.type_vocab_size,
            self.build_positions(config),
            config.pad_token_id,
            config.layer_norm_eps,
            config.hidden_dropout_prob,
        )

    def build_positions(self, config: EncoderConfig) -> nn.Module:
        """The position module of this family."""
        return LearnedPositions(config.max_sequence_length, config.hidden_size)

    def counted_tokens(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, T) bool: the tokens that are numbered, which are those attended to."""
        if attention_mask is None:
            return torch.ones_like(input_ids, dtype=torch.bool)
        return attention_mask

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Encode every token.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: (B, T) int64, 0 for the first text and 1 for the second; 0 by default.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map, under any kernel.

        Raises:
            ValueError: an input's shape, dtype or values are off; see :mod:`..models.inputs`.
        """
        with recording(
            self.layers, hidden_states=output_hidden_states, attentions=output_attentions
        ) as record:
            hidden, present = self.encode(input_ids, attention_mask, token_type_ids)
        pooled = None
        if self.pooler is not None:
            first = take_rows(hidden, first_tokens(present)).squeeze(1)  # (B, E)
            # Of a row without a token, zeros under every kernel.
            pooled = self.pooler(first.masked_fill(~present.any(dim=1, keepdim=True), 0.0))
        return EncoderOutput(last_hidden_state=hidden, pooler_output=pooled, **record.fields())

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        wanted: Wanted | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The checked inputs through embeddings and layers.

        Args:
            input_ids, attention_mask, token_type_ids: as in `forward`.
            wanted: W tokens: the last layer computes these alone.

        Returns:
            (B, T, E), or (W, E), row after row; and (B, T) bool, True at real tokens.
        """
        attention_mask = self.check_inputs(input_ids, attention_mask, token_type_ids)
        present = self.counted_tokens(input_ids, attention_mask)  # (B, T)
        rows = arrange(attention_mask, packed=self.attention == "packed")
        if token_type_ids is not None:
            token_type_ids = rows.enter(token_type_ids)
        positions = rows.enter(count_positions(present))
        hidden = self.embeddings(rows.enter(input_ids), token_type_ids, positions)  # (B, T, E)
        # Now, for it waits for a GPU, which has nothing to do yet.
        chosen = None if wanted is None else rows.choose(wanted)
        *earlier, last = self.layers
        for layer in earlier:
            hidden = layer(hidden, rows.mask)  # (B, T, E)
        if chosen is None:
            return rows.leave(last(hidden, rows.mask)), present
        return chosen.take(last(hidden, chosen.mask, chosen.places)), present

    def check_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor | None:
        """Check what came in; gives the mask as bool, or None where nothing is padded."""
        config = self.config
        check_ids("input_ids", input_ids, size=config.vocab_size, size_name="vocab_size")
        check_length(
            input_ids.shape[1],
            longest=config.max_sequence_length,
            table_rows=config.max_position_embeddings,
        )
        self.check_token_types(token_type_ids)
        return check_attention_mask(attention_mask, input_ids, config.pad_token_id)

    def check_token_types(self, token_type_ids: Tensor | None) -> None:
        """Check that every token type has a row in the table."""
        if token_type_ids is not None:
            check_ids(
                "token_type_ids",
                token_type_ids,
                size=self.config.type_vocab_size,
                size_name="type_vocab_size",
            )
