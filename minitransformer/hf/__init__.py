"""Hugging Face checkpoints in and out; the one room that knows Hugging Face's names."""
