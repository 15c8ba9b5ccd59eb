"""Lets `python -m chiron` stand for the `chiron` command."""

import sys

from chiron.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
