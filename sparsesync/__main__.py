"""``python -m sparsesync``, and what the installed command (bin/sparsesync) runs."""

import sys


def run() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] == ["--version"]:
        # Scripts ask for it again and again, and argparse alone would double the time.
        from . import __version__

        try:
            print("sparsesync", __version__, flush=True)
            return
        except (OSError, AttributeError):  # there is nobody to read it, which main() tells
            pass
    from .commands.main import main

    sys.exit(main())


if __name__ == "__main__":
    run()
