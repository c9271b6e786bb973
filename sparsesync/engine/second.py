"""A second process of this one, which does a part of what takes long: a fork that answers questions.

Python runs on one processor, whatever its threads do. Where nearly all the time goes into Python and into short system
calls, another process can do half of the work. Who needs one makes a :class:`SecondProcess` with the function that
answers, gives it questions, and goes on with its own part. It takes the answers when there are some.

The two talk through pipes, in values that :mod:`marshal` writes. A value need not fit into a pipe. The second process
is a fork: to start another Python takes longer than most work that is shared. An error of the system goes back to who
asked.

It hears of the end of the first one by a signal, by what the terminal sends to both, or when it has nothing more to
answer. It ends tidily by any of them, as a program does whose temporary files are removed on the way out.
"""

import contextlib
import errno
import marshal
import os
import select
import signal
import struct
from collections import deque
from typing import Any, Callable, Deque, Iterable, Iterator, List, NoReturn, Optional

_LENGTH = struct.Struct("=I")


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def possible() -> bool:
    """Return whether a second process is useful and a fork is safe: no other thread may hold a lock meanwhile."""
    try:
        # Those of libraries are not in threading.
        return len(os.sched_getaffinity(0)) > 1 and len(os.listdir("/proc/self/task")) == 1
    except FileNotFoundError:
        return False


class HasEnded(OSError):
    """A second process that is gone, killed most likely, before it had answered."""


class SecondProcess:
    """The second process.

    ``answer``: called in it with each question; yields the parts of the answer.
    ``helps``: what the process helps to do, for the error that it has ended.
    ``waiting``: the questions that are not yet answered to the end.
    ``pid``: its number.

    Raises OSError as fork(2) and pipe(2).
    """

    def __init__(self, answer: Callable[[Any], Iterable[Any]], helps: str) -> None:
        self.waiting: int = 0
        self.pid: int = 0
        self._helps = helps
        self._come: Deque[Any] = deque()
        fds: List[int] = []
        # A signal that comes to the new process before it is ready would have it go on as the first one does.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            try:
                fds += os.pipe()
                fds += os.pipe()
                asked, self._questions, self._answers, answering = fds
                self.pid = os.fork()
                if not self.pid:
                    try:
                        os.close(self._questions)
                        os.close(self._answers)
                        _end_by_signals()
                        signal.pthread_sigmask(signal.SIG_SETMASK, before)
                        self._serve(answer, asked, answering)
                    except BaseException:
                        # A signal, or that the first process has gone. Of anything else it learns by what is missing.
                        os._exit(1)
                    os._exit(0)
                os.set_blocking(self._questions, False)
                self._poll = select.poll()
                self._poll.register(self._answers, select.POLLIN)
                self._both = select.poll()
                self._both.register(self._answers, select.POLLIN)
                self._both.register(self._questions, select.POLLOUT)
                for fd in (asked, answering):
                    fds.remove(fd)
                    os.close(fd)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)  # raises what a signal has raised meanwhile
        except BaseException:
            for fd in fds:
                os.close(fd)
            self._end()
            raise

    def ask(self, question: Any) -> None:
        """Hand over a question."""
        self.waiting += 1
        left = _packed(question)
        while left:
            try:
                left = left[os.write(self._questions, left) :]
            except BlockingIOError:
                # It may be writing an answer that is as long, and reads on when somebody has taken that.
                self._both.poll()
                if self._poll.poll(0):
                    self._come.append(_receive(self._answers))
            except BrokenPipeError:
                return  # it is gone: there will be no answer, and that is the error

    def answers(self, wait: bool) -> Iterator[Any]:
        """Yield the parts of the answers so far, and None at the end of each. ``wait``: also all there is to come.

        Raises what answering raised, an OSError, and HasEnded if the process has ended before it had answered.
        """
        while self.waiting and (self._come or self._poll.poll(None if wait else 0)):
            answer = self._come.popleft() if self._come else _receive(self._answers)
            if answer is None:
                raise HasEnded(errno.EIO, "the process that helps to {} has ended".format(self._helps))
            failed, last, part = answer
            if failed:
                import pickle

                raise pickle.loads(part)  # of ourselves
            self.waiting -= last
            yield None if last else part

    def close(self, tidy: bool = False) -> None:
        """End the process, even if it is busy. ``tidy``: it has something to remove, and is waited for until then."""
        os.close(self._questions)
        os.close(self._answers)
        self._end(tidy)

    def _end(self, tidy: bool = False) -> None:
        if not self.pid:
            return
        with contextlib.suppress(ChildProcessError):  # the program waits for children of its own, and got this one too
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                # Nothing else ends one that waits for a server which is gone.
                os.kill(self.pid, signal.SIGTERM if tidy else signal.SIGKILL)
                os.kill(self.pid, signal.SIGCONT)
                os.waitpid(self.pid, 0)

    def _serve(self, answer: Callable[[Any], Iterable[Any]], asked: int, answering: int) -> None:
        question = _receive(asked)
        while question is not None:
            try:
                for part in answer(question):
                    _send(answering, (False, False, part))
            except OSError as error:
                import pickle

                _send(answering, (True, True, pickle.dumps(error)))
            else:
                _send(answering, (False, True, None))
            question = _receive(asked)


def _end_by_signals() -> None:
    """Have this process end by the first signal, undisturbed by others, unless the first one ignores it."""
    heard = [number for number in _ENDING if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN]

    def end(*signal_and_frame: object) -> NoReturn:
        for number in heard:
            signal.signal(number, _pass)  # of one that has come and is ignored by now Python complains
        raise SystemExit

    signal.set_wakeup_fd(-1)  # the first one would hear by it of what is for this one
    for number in heard:
        signal.signal(number, end)


def _pass(*signal_and_frame: object) -> None:
    pass


def _packed(value: Any) -> memoryview:
    data = marshal.dumps(value)
    return memoryview(_LENGTH.pack(len(data)) + data)


def _send(fd: int, value: Any) -> None:
    left = _packed(value)
    while left:
        left = left[os.write(fd, left) :]


def _receive(fd: int) -> Optional[Any]:
    """Return what :func:`_send` sent, or None at the end."""
    length = _read(fd, _LENGTH.size)
    return marshal.loads(_read(fd, _LENGTH.unpack(length)[0])) if length else None


def _read(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            return b""
        data += more
    return data
