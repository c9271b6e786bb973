"""The steps of a build that setup.cfg has no words for: the pages of the manual, and what shells complete."""

import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent


class BuildShare(Command):
    """Make what is installed below share/, and add it to the distribution's files."""

    editable_mode = False

    def initialize_options(self):
        """Have no options."""
        self.build_lib = None

    def finalize_options(self):
        """Have none to work out."""

    def run(self):
        """Make the files."""
        sys.path.insert(0, str(ROOT))
        from release import completion, manual

        folder = ROOT / "build"
        made = [*manual.write(folder / "share" / "man" / "man1"), *completion.write(folder)]
        listed = self.distribution.data_files = self.distribution.data_files or []
        for path in made:
            path = path.relative_to(ROOT)
            listed.append((str(path.parent.relative_to("build")), [str(path)]))

    def get_source_files(self):
        """Return what is needed besides the packages: MANIFEST.in has it."""
        return []

    def get_outputs(self):
        """Return what is in the packages: nothing."""
        return []

    def get_output_mapping(self):
        """Return what is in the packages: nothing."""
        return {}


build.sub_commands.append(("build_share", None))
setup(cmdclass={"build_share": BuildShare})
