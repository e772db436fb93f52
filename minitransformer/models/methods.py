"""Methods of every model, by the names that a user of Hugging Face knows.

V vocabulary, E hidden size.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.generation_config import check_tokens
from minitransformer.models.validation import StrictAttributes

# The ends of the names of tensors with something for each token of the vocabulary: the token
# embedding, the matrix of a head that is not tied to it, and the biases of heads.
_OF_TOKENS = (
    "token_embedding.weight",  # (V, E)
    "lm_head.weight",  # (V, E)
    "lm_head.output.weight",  # (V, E)
    "lm_head.bias",  # (V,)
    "final_logits_bias",  # (1, V)
)


class ModelMethods(StrictAttributes):
    """What a model says of itself, and how its vocabulary grows.

    Attributes:
        name_or_path: where the model was loaded from; "" for one that was not.
    """

    config: Any
    init_weights: Callable[[nn.Module], None]
    name_or_path: str = ""

    @property
    def device(self) -> torch.device:
        """The device of the first parameter; a model is usually on one."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter."""
        return next(self.parameters()).dtype

    @property
    def base_model(self) -> nn.Module:
        """The model without its head, or the model itself if it has none."""
        return getattr(self, "backbone", self)

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the parameters have; tied ones count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, whose weight is (V, E)."""
        names = dict(self.named_modules())
        found = next(m for name, m in names.items() if name.endswith("token_embedding"))
        assert isinstance(found, nn.Embedding)
        return found

    def resize_token_embeddings(
        self, new_num_tokens: int, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Change the number of tokens, usually after `tokenizer.add_tokens(...)`.

        What belongs to tokens that stay keeps its values. The vectors of new tokens are drawn by
        `init_weights`, and their biases are 0. (Hugging Face draws them, by default, from a normal
        distribution with the mean and covariance of the old ones.) Parameters are replaced, so make
        the optimizer afterwards. The config is replaced as well: configs do not change.

        Args:
            new_num_tokens: V from now on, for example `tokenizer.vocab_size`.
            pad_to_multiple_of: V is the next multiple of it instead, such as 64 for tensor cores.

        Returns:
            The token embedding.

        Raises:
            ValueError: it is no positive integer, or leaves out a special token.
        """
        if pad_to_multiple_of is not None:
            new_num_tokens = math.ceil(new_num_tokens / pad_to_multiple_of) * pad_to_multiple_of
        config = replace(self.config, vocab_size=new_num_tokens)  # which checks it
        if (generation := getattr(self, "generation_config", None)) is not None:
            check_tokens(generation, new_num_tokens)
        for name, value in vars(config).items():
            if name.endswith("_token_id") and value is not None and value >= new_num_tokens:
                raise ValueError(f"vocab_size={new_num_tokens} leaves out {name}={value}")
        parameters = dict(self.named_parameters())
        for name, old in self.state_dict().items():
            if name.endswith(_OF_TOKENS):
                path, _, own_name = name.rpartition(".")
                module, values = self.get_submodule(path), self._resized(old, new_num_tokens)
                if name in parameters:
                    is_trained = parameters[name].requires_grad
                    setattr(module, own_name, nn.Parameter(values, requires_grad=is_trained))
                else:
                    setattr(module, own_name, values)
                if isinstance(module, nn.Embedding):
                    module.num_embeddings = new_num_tokens
                elif isinstance(module, nn.Linear):
                    module.out_features = new_num_tokens
        for part in self.modules():
            if isinstance(part, ModelMethods):
                part.config = config
        return self.get_input_embeddings()

    def _resized(self, old: Tensor, size: int) -> Tensor:
        """(V, E) to (size, E), or a bias, (V,) or (1, V), to (size,) or (1, size)."""
        if old.dim() == 1 or old.shape[0] == 1:
            new = old.new_zeros(*old.shape[:-1], size)
            new[..., : old.shape[-1]] = old[..., :size]
            return new
        table = nn.Embedding(size, old.shape[1], device=old.device, dtype=old.dtype)
        self.init_weights(table)
        new = table.weight.detach()
        new[: len(old)] = old[:size]
        return new
