"""The version, for the package, the command and setup.py, which reads this file."""

__version__ = "0.9.0"
