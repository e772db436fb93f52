"""Reading and writing Hugging Face checkpoints: only this package knows Hugging Face's names."""
