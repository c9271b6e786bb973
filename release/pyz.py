"""``python -m release.pyz [FILE]``: all of sparsesync in one file, which runs wherever there is Python 3.9.

That is a zip file of the sources, as the module zipapp makes it. tqdm goes in as the Python that makes the file has it.
Without it there are no progress bars, and all else works. Nothing is compiled: the file is the same for every Python.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipapp
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Any Python has to be able to read it, to say what it is too old for.
_MAIN = """\
import sys

if sys.version_info < (3, 9):
    sys.exit("sparsesync: needs Python 3.9 or newer, and this is " + sys.version.split()[0])

from sparsesync.__main__ import run

if __name__ == "__main__":
    run()
"""


def make(target: Path) -> None:
    """Write the file, executable, to ``target``, and make the directory for it."""
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        shutil.copytree(ROOT / "sparsesync", top / "sparsesync", ignore=shutil.ignore_patterns("__pycache__", "bin"))
        shutil.copy(ROOT / "LICENSE", top)
        (top / "__main__.py").write_text(_MAIN)
        _add_tqdm(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        zipapp.create_archive(top, target, "/usr/bin/env python3", compressed=True)
        mode = target.stat().st_mode
        target.chmod(mode | (mode & 0o444) >> 2)  # zipapp lets only its owner run it


def _add_tqdm(top: Path) -> None:
    """Copy tqdm and what tells its version and licence, as it is installed."""
    try:
        files = distribution("tqdm").files
    except PackageNotFoundError:
        print("tqdm is not installed, so there will be no progress bars", file=sys.stderr)
        return
    for file in files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            (top / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), top / file)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "sparsesync.pyz")
