"""The public functions over connections that last. :mod:`sparsesync.api` says what all their parameters mean.

A method is the function of its name, given a :class:`~.hosts.pool.Connections` in place of ``rsh``. So a function is
written once, and what it takes, its method takes.

To a type checker a method takes ``rsh`` and ``python``, too: no ParamSpec leaves a parameter out, and stubs would be
all signatures a second time. A name to which a value is assigned has a type that each checker may guess in another way,
while a decorated function has that which the decorator says. So that is how the methods are written.
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


def _as(function: Callable[_P, _R]) -> Callable[[object], Callable[Concatenate[Session, _P], _R]]:
    """Return a decorator that makes ``function`` of whatever it decorates."""

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
    return lambda _: method  # type: ignore[return-value]  # functools.wraps is typed with a class of its own


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

    @_as(copying.copyfile)
    def copyfile(self) -> None: ...

    @_as(copying.copy)
    def copy(self) -> None: ...

    @_as(copying.copy2)
    def copy2(self) -> None: ...

    @_as(directories.copytree)
    def copytree(self) -> None: ...

    @_as(trees.equal)
    def equal(self) -> None: ...

    @_as(trees.exclude_patterns)
    def exclude_patterns(self) -> None: ...

    @_as(mapping.map)
    def map(self) -> None: ...

    @_as(directories.move)
    def move(self) -> None: ...

    @_as(trees.scan)
    def scan(self) -> None: ...

    @_as(transfers.sync)
    def sync(self) -> None: ...

    @_as(trees.verify)
    def verify(self) -> None: ...
