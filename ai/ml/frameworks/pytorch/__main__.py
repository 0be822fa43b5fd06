"""`python -m ai.ml.frameworks.pytorch`: the command line, as `python -m tabwright`."""

from tabwright.cli.app import main

main()
