"""Text to token ids and back, over the `tokenizers` library: load, train, encode, pad, truncate."""

from minitransformer.tokenization.batch_encoding import BatchEncoding
from minitransformer.tokenization.tokenizer import Tokenizer

__all__ = ["BatchEncoding", "Tokenizer"]
