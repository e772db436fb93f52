"""The maths of transformers, in torch alone."""
