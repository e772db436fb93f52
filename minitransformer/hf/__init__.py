"""Hugging Face checkpoints in and out: the one package that knows Hugging Face's names."""
