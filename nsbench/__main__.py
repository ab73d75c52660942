"""`python -m nsbench` is the command line."""

from nsbench.cli import main

if __name__ == "__main__":
    main()
