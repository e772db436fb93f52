"""Multi-head attention ("Attention Is All You Need", section 3.2.2): self, masked and cross.

B batch, T query tokens, S key tokens, H heads, D head size, E hidden size, K rows of queries that
share one row of keys.
"""

from torch import Tensor, nn

from minitransformer.layers.cache import PastTokens
from minitransformer.layers.kernels import kernel_named
from minitransformer.layers.linear import Linear
from minitransformer.layers.packing import Mask


class MultiHeadAttention(nn.Module):
    """H attentions of size D side by side, each over its own projection of the tokens.

    Args:
        hidden_size: E.
        num_heads: H; divides E, unless the head size is given.
        dropout: probability of dropping a weight while training.
        attention: the kernel, "eager", "sdpa" or "packed".
        head_size: D, E / H by default.
        bias: whether the four projections have one; T5's have none.
        scale: of the products of queries and keys; None stands for 1 / sqrt(D).
        causal: a token sees none that come after it ("masked" attention, section 3.2.3).

    Raises:
        ValueError: H does not divide E, or the kernel is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        dropout: float = 0.0,
        attention: str = "sdpa",
        *,
        head_size: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if head_size is None and hidden_size % num_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads}"
            )
        inner_size = num_heads * (head_size or hidden_size // num_heads)  # H * D
        self.num_heads = num_heads
        self.build_projections(hidden_size, inner_size, bias)
        self.output = Linear(inner_size, hidden_size, bias)
        self.kernel = kernel_named(attention)(dropout, scale, causal)

    def build_projections(self, hidden_size: int, inner_size: int, bias: bool) -> None:
        """Make the maps from tokens to queries, keys and values."""
        self.query = Linear(hidden_size, inner_size, bias)
        self.key = Linear(hidden_size, inner_size, bias)
        self.value = Linear(hidden_size, inner_size, bias)

    def forward(
        self,
        hidden: Tensor,
        context: Tensor | None = None,
        mask: Mask = None,
        bias: Tensor | None = None,
        past: PastTokens | None = None,
    ) -> Tensor:
        """Let each token of `hidden` gather what it needs from the others, or from `context`.

        Args:
            hidden: (B, T, E), the tokens that ask.
            context: (B, S, E), the tokens that are asked; `hidden` itself by default.
            mask: bool, broadcastable to (B, H, T, S), True = attend; of packed rows, where each
                begins.
            bias: added to the scores, broadcastable to (B, H, T, S).
            past: the keys and values of the tokens before `hidden`, which are asked too, and to
                which those of `hidden` are added.

        Returns:
            (B, T, E).
        """
        query, key, value = self.project(hidden, hidden if context is None else context)
        if past is not None:
            key, value = past.update(key, value)  # (B, H, S, D) each
        return self.merge_heads(self.kernel(query, key, value, mask, bias))  # (B, T, E)

    def project(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of (B, T, E), keys and values of (B, S, E), split into heads."""
        query = self.split_heads(self.query(hidden))  # (B, H, T, D)
        key = self.split_heads(self.key(context))  # (B, H, S, D)
        value = self.split_heads(self.value(context))  # (B, H, S, D)
        return query, key, value

    def split_heads(self, projected: Tensor) -> Tensor:
        """(B, T, H * D) to (B, H, T, D)."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def merge_heads(self, gathered: Tensor) -> Tensor:
        """(B, H, T, D) to (B, T, E)."""
        return self.output(gathered.transpose(1, 2).flatten(2))


class FusedSelfAttention(MultiHeadAttention):
    """The same with queries, keys and values from one matrix, as GPT-2 stores them.

    One large product costs less than three small ones; the numbers are the same.
    """

    def build_projections(self, hidden_size: int, inner_size: int, bias: bool) -> None:
        """Make the one map from tokens to queries, keys and values."""
        self.query_key_value = Linear(hidden_size, 3 * inner_size, bias)

    def project(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (B, T, E), split into heads."""
        assert context is hidden, "a fused matrix serves self-attention only"
        projected = self.query_key_value(hidden)  # (B, T, 3 * H * D)
        query, key, value = map(self.split_heads, projected.chunk(3, dim=-1))
        return query, key, value  # (B, H, T, D) each


class CrossAttention(MultiHeadAttention):
    """The tokens of a decoder ask those of the encoder ("encoder-decoder attention").

    The encoder's tokens stay what they are while the decoder writes, so their keys and values are
    computed once. Nor are they copied where K rows are decoded from one source, as in beam search:
    the queries of those rows are laid end to end instead (packed rows are copied).
    """

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        context: Tensor,
        mask: Mask = None,
        past: PastTokens | None = None,
    ) -> Tensor:
        """Let each token of the decoder gather what it needs from the encoder's.

        Args:
            hidden: (B * K, T, E), the decoder's tokens; rows K b to K b + K - 1 belong to source b.
            context: (B, S, E), the encoder's.
            mask: (B, 1, 1, S) bool, True = attend; of packed rows, where each begins.
            past: the keys and values of `context`, once they are known.

        Returns:
            (B * K, T, E).

        Raises:
            ValueError: `past` is of another context.
        """
        query = self.split_heads(self.query(hidden))  # (B * K, H, T, D)
        if past is None or not past.length:
            key = self.split_heads(self.key(context))  # (B, H, S, D)
            value = self.split_heads(self.value(context))  # (B, H, S, D)
            if past is not None:
                key, value = past.update(key, value)
                past.context = context
        elif past.context is context:
            key, value = past.tokens()
        else:
            raise ValueError("the cache is of another source; begin with a new one")
        rows, sources = len(query), len(key)
        if rows == sources:
            return self.merge_heads(self.kernel(query, key, value, mask))  # (B, T, E)
        length = query.shape[2]
        query = query.unflatten(0, (sources, -1)).transpose(1, 2).flatten(2, 3)  # (B, H, K * T, D)
        gathered = self.kernel(query, key, value, mask)  # (B, H, K * T, D)
        gathered = gathered.unflatten(2, (-1, length)).transpose(1, 2)  # (B, K, H, T, D)
        return self.merge_heads(gathered.flatten(0, 1))  # (B * K, T, E)
