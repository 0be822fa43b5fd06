"""`python -m tabwright`: the command line."""

from tabwright.cli.app import main

main()
