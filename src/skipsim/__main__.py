"""`python -m skipsim` is the command line."""

from skipsim.analysis.cli import main

main()
