"""`python -m minitransformer VERB`: the command, where its script is not on the PATH."""

import sys

from minitransformer.cli import main

sys.exit(main())
