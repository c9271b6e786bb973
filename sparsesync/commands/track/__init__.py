"""``sparsesync track``: what ``--track`` and ``--seed-track`` keep. See :mod:`actions`."""

from .actions import add

__all__ = ["add"]
