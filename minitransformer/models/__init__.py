"""The families, one a file: how the layers are wired, and their configs."""
