"""``sparsesync serve``: what a key may do that is for one directory. See :mod:`actions`, and sparsesync.serving."""

from .actions import add

__all__ = ["add"]
