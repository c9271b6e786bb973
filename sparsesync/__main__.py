"""``python -m sparsesync`` and the console script."""

import sys


def run() -> None:
    """Run the command line and exit with its status."""
    from .cli import main

    sys.exit(main())


if __name__ == "__main__":
    run()
