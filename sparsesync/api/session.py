"""The public functions over connections that last. :mod:`sparsesync.api` says what all their parameters mean.

A method is the function of its name, given a :class:`~.hosts.pool.Connections` in place of ``rsh``. So a function is
written once, and what it takes, its method takes.

To a type checker a method takes ``rsh`` and ``python``, too: no ParamSpec leaves a parameter out, and stubs would be
all signatures a second time.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from . import copying, directories, mapping, transfers, trees

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    from ..hosts.base import Rsh

    _P = ParamSpec("_P")
_R = TypeVar("_R")


def _method(function: Callable[_P, _R]) -> Callable[Concatenate[Session, _P], _R]:
    @functools.wraps(function)
    def method(self: Session, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if "rsh" in kwargs or "python" in kwargs:
            raise TypeError(f"{function.__name__}: rsh and python are the session's")
        kwargs["rsh"] = self._connections
        return function(*args, **kwargs)

    taken = inspect.signature(function)
    given = [each for name, each in taken.parameters.items() if name not in ("rsh", "python")]
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = taken.replace(parameters=[first, *given])  # type: ignore[attr-defined]
    return method  # type: ignore[return-value]  # functools.wraps is typed with a class of its own


class Session:
    """Connections to other hosts that are shared between calls. A context manager.

    Its methods are the functions of their names, without ``rsh`` and ``python``. A host is logged in to when the first
    call needs it. Threads may share a session: for calls that overlap, and while an iterator has not ended, there is an
    agent for each. After an exception, or an iterator that was not read to its end, the next call starts another. With
    ssh, all of them and :meth:`sync` go through one login, unless ssh is configured to share connections in another
    way. With another remote shell each agent is a login, and :meth:`sync` has logins of its own.

    ``rsh``, ``python``: see :mod:`sparsesync.api`.
    """

    def __init__(self, *, rsh: Rsh = None, python: str | None = None) -> None:
        from ..hosts.pool import Connections

        self._connections: Any = Connections(rsh, python)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A call that is under way raises LinkError, and a later one ValueError."""
        self._connections.close()

    copyfile = _method(copying.copyfile)
    copy = _method(copying.copy)
    copy2 = _method(copying.copy2)
    copytree = _method(directories.copytree)
    equal = _method(trees.equal)
    exclude_patterns = _method(trees.exclude_patterns)
    map = _method(mapping.map)
    move = _method(directories.move)
    scan = _method(trees.scan)
    sync = _method(transfers.sync)
    verify = _method(trees.verify)
