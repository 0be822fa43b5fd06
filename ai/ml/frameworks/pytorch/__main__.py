"""`python -m ai.ml.frameworks.pytorch`: the command line."""

from ai.ml.frameworks.pytorch.cli import main

main()
