"""python -m skipsim: the command line."""

from skipsim.analysis.cli import main

if __name__ == "__main__":
    main()
