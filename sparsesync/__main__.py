"""``python -m sparsesync``, and what the installed command (bin/sparsesync) runs."""

import gc
import sys


def run() -> None:
    """Run the command line and exit with its status. Under the name ``rsync`` it is that of ``sync``."""
    # Imports make no garbage, and to look for some each time takes a tenth of the start. main() ends that.
    gc.disable()
    in_its_place = sys.argv[0].rpartition("/")[2] == "rsync"
    argv = ["sync", *sys.argv[1:]] if in_its_place else sys.argv[1:]
    if argv == ["--version"] or _is_asked(argv):
        # Scripts ask for it again and again, and argparse alone would double the time.
        from . import __version__

        try:
            print("sparsesync", __version__, flush=True)
            return
        except (OSError, AttributeError):  # there is nobody to read it, which main() tells
            pass
    from .commands.main import main

    sys.exit(main(argv, in_its_place))


def _is_asked(argv: list[str]) -> bool:
    """Return whether sparsesync itself is searching for rsync and has found this program."""
    if "--version" not in argv:
        return False
    from .rsync.program import QUESTION

    return argv[0] == "sync" and QUESTION in argv


if __name__ == "__main__":
    run()
