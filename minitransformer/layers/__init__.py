"""The maths of a transformer, one mechanism a file; needs torch alone."""
