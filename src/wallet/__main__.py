"""Runs the command line as `python -m wallet`."""

from wallet.cli.main import main

if __name__ == "__main__":
    main()
