"""Packaging: what `pip install` needs to know."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VIZ = ["matplotlib>=3.8"]
SENTENCEPIECE = ["sentencepiece>=0.2.3"]
TRANSLATION = ["sacrebleu>=2.4", *SENTENCEPIECE]
BENCH = ["pandas>=2.2", "transformers>=5.0", *VIZ]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "onnxscript>=0.5",
    "onnxruntime>=1.20",
    "jupytext>=1.16",
    "nbclient>=0.10",
    "ipykernel>=6.29",
    *TRANSLATION,
    *BENCH,
]

# Read, not imported: the package imports PyTorch, which may not be installed yet.
SOURCE = Path(__file__).parent / "minitransformer" / "version.py"
[VERSION] = re.findall(r'__version__ = "(.+)"', SOURCE.read_text(encoding="utf-8"))

setup(
    name="minitransformer",
    version=VERSION,
    description="Transformers from scratch in plain PyTorch, with proven parity to Hugging Face",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
    keywords="transformer attention pytorch bert roberta gpt2 bart t5 marian education",
    packages=find_packages(include=["minitransformer", "minitransformer.*", "train", "train.*"]),
    package_data={"minitransformer": ["py.typed", "*.pyi", "pretrained/*/*"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.10",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "numpy>=1.26",
        "tqdm>=4.66",
    ],
    extras_require={
        "viz": VIZ,
        "sentencepiece": SENTENCEPIECE,
        "translation": TRANSLATION,
        "bench": BENCH,
        "test": TEST,
        "dev": ["ruff>=0.9", "mypy>=1.13"],
    },
    entry_points={"console_scripts": ["minitransformer=minitransformer.cli:main"]},
)
