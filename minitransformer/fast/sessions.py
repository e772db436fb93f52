"""Decoding sessions that are faster: prepacked weights on a CPU, a CUDA graph on a GPU."""

from typing import Any

from torch import Tensor, nn

from minitransformer.fast.cuda_graph import graphed_session
from minitransformer.fast.prepacked_linear import prepack, release
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import DecodingSession, LanguageModel


def weights_of_a_step(model: LanguageModel) -> list[nn.Module]:
    """The modules whose weights are read for every token that is generated: decoder and head.

    The encoder, which runs once a text, is not among them.
    """
    backbone: Any = model.backbone
    modules = getattr(backbone, "decoder", backbone).modules()
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    return [*linears, getattr(model, "lm_head", None) or backbone.token_embedding]


def fast_session(
    session: DecodingSession, model: LanguageModel, config: GenerationConfig, watched: bool
) -> DecodingSession:
    """The session that serves this device best.

    Args:
        session: the plain one.
        model: that decodes.
        config: the resolved generation config; `max_new_tokens` is known.
        watched: whether each token is looked at as soon as it is chosen.
    """
    assert config.max_new_tokens is not None
    if session.prompt.is_cuda:
        return graphed_session(session, config.max_new_tokens, watched)
    return PrepackedSession(session, weights_of_a_step(model), config.max_new_tokens)


class PrepackedSession(DecodingSession):
    """A session during which the decoder's weights are prepacked.

    Args:
        session: that decodes.
        modules: whose weights are read in each step.
        num_uses: how often, at most.
    """

    def __init__(self, session: DecodingSession, modules: list[nn.Module], num_uses: int) -> None:
        self.session = session
        self.prompt = session.prompt
        self.cache = session.cache
        self.modules = modules
        prepack(modules, num_uses)

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        return self.session.start()

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        return self.session.step(history)

    def select(self, rows: Tensor) -> None:
        """Make sequence r what sequence `rows[r]` was."""
        self.session.select(rows)

    def close(self) -> None:
        """End with the prepacked weights; the copies stay for the next session."""
        release(self.modules)
        self.session.close()
