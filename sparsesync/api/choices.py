"""The types of what is chosen from a few words. Only type checkers import this module."""

from typing import Literal

Format = Literal["rsync", "tar", "borg", "restic", "kopia", "rustic"]
"""The program that reads exclude patterns."""

Holes = Literal["auto", "trust", "check", "read"]
"""Whether the map that a filesystem has of a file is believed: see :mod:`sparsesync.api`."""

Reflink = Literal["auto", "always", "never"]
"""Whether a copy shares extents with its source."""

Zeros = Literal["auto", "always"]
"""Whether blocks of zeros become holes, where the source has none."""
