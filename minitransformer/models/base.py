"""What every model has in common: strict calls, initial weights, loading and saving."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from minitransformer.layers.norm import LayerNorm, RMSNorm
from minitransformer.models.config import Config
from minitransformer.models.inputs import IGNORED_LABEL


class Model(nn.Module):
    """Base of the models.

    A model keeps its `config` and hands plain arguments to its layers. `attention`, the kernel, is
    not part of the config: it changes how the numbers are computed, not what they are.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", the same without padding; or "eager", the
            formula.

    Raises:
        TypeError: the config is that of another family.
    """

    config: Config
    config_class: ClassVar[type[Config]]
    # The attribute under which a model with a task head keeps its backbone, such as "roberta";
    # Hugging Face puts the same word before the names of the backbone's weights.
    backbone_name: ClassVar[str | None] = None
    # Whether hidden values grow beyond what float16 can hold.
    overflows_in_float16: ClassVar[bool] = False
    # Whether a head scores words, with the word embedding or a matrix of its own.
    guesses_words: ClassVar[bool] = False

    def __init__(self, config: Config, *, attention: str = "sdpa") -> None:
        super().__init__()
        if type(config) is not self.config_class:
            raise TypeError(
                f"{type(self).__name__} needs a {self.config_class.__name__}, "
                f"not a {type(config).__name__}"
            )
        self.config = config
        self.attention = attention

    def draw(self, part: nn.Module) -> None:
        """Give a part of the model, such as a new head, the weights that training begins with."""
        config: Any = self.config
        initialize(part, config.initializer_range)

    def save_pretrained(self, path: str | Path) -> None:
        """Write config.json and model.safetensors in Hugging Face's layout, atomically.

        Raises:
            NotADirectoryError: `path` is a file.
        """
        # The one import against the stream: models/ can be read and used without hf/.
        from minitransformer.hf.saving import save_pretrained

        save_pretrained(self, path)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        attention: str = "sdpa",
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        **changes: object,
    ) -> Self:
        """Load a checkpoint into this class, whatever class its config names.

        A task head that the checkpoint lacks is drawn anew and named in a warning; so is one that
        the checkpoint has and this class does not. See :func:`minitransformer.from_pretrained`.

        Args:
            path, attention, dtype, device: as there.
            changes: fields of the config to be set to other values than the checkpoint's, such as
                `hidden_dropout_prob=0.0` or `id2label={0: "no", 1: "maybe", 2: "yes"}`. A
                classification head for another number of classes is drawn anew. A change of
                `pad_token_id`, `hidden_act` or the like makes another function of the same weights.

        Raises:
            CheckpointError: the checkpoint is missing, unsafe, damaged, or of another family.
            TypeError: a field of `changes` is unknown.
            ValueError: a field of `changes` has a value without a meaning.
        """
        from minitransformer.hf.loading import load_model

        return load_model(
            cls, path, attention=attention, dtype=dtype, device=device, changes=changes
        )


class TaskModel(Model):
    """Base of the models with a task head: they have a backbone, and can be trained."""

    backbone_name: ClassVar[str]

    def summed_loss(self, *_arguments: Any, **_named: Any) -> tuple[Tensor, Tensor]:
        """The sum of the losses of everything labelled in a batch, and how much that is."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def loss(self, *inputs: Tensor | None, **named: Tensor | None) -> Tensor:
        """The loss of `forward` and its gradients, where a task allows it for less work.

        The arguments are those of `summed_loss`. Zero, with a gradient of zeros, where nothing is
        labelled.
        """
        return mean_loss(*self.summed_loss(*inputs, **named))

    def count_supervised(self, batch: dict[str, Tensor]) -> int:
        """The number that `summed_loss` will return with the sum, known before anything is run."""
        return int((batch["labels"] != IGNORED_LABEL).sum())


def mean_loss(total: Tensor, count: Tensor) -> Tensor:
    """The mean of `count` losses that sum to `total`; zero where there are none."""
    return total / count.clamp(min=1)


def initialize(root: nn.Module, standard_deviation: float) -> None:
    """Draw every weight of `root` as BERT does: N(0, standard_deviation), biases 0, norms 1 and 0.

    The vector of the padding token is zero.
    """
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=standard_deviation)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
        if isinstance(module, LayerNorm | RMSNorm):
            nn.init.ones_(module.weight)
            if isinstance(module, LayerNorm):
                nn.init.zeros_(module.bias)
        elif not isinstance(module, nn.Linear | nn.Embedding):
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)  # a bias that stands alone
