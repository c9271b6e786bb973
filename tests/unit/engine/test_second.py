"""The second process: what is long goes back and forth, and nothing of it is felt by the program that it is part of."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsesync.engine.second import HasEnded, SecondProcess


def echo(question: bytes) -> Iterator[bytes]:
    """Answer with the question."""
    yield question


@pytest.fixture
def second() -> Iterator[SecondProcess]:
    made = SecondProcess(echo, "answer")
    yield made
    made.close()


@contextlib.contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """End what hangs."""

    def end(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_questions_and_answers_that_are_longer_than_a_pipe(second: SecondProcess) -> None:
    """Paths may have four thousand bytes each."""
    asked = [bytes([number]) * (1 << 20) for number in range(3)]
    with deadline(20):
        for question in asked:
            second.ask(question)
        assert [answer for answer in second.answers(wait=True) if answer is not None] == asked
    assert not second.waiting


def test_its_end_is_no_signal_to_the_first() -> None:
    """asyncio hears of signals by a descriptor, which the second process has, too."""
    hears, told = socket.socketpair()
    with hears, told:
        for end in (hears, told):
            end.setblocking(False)
        before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(told.fileno())
        try:
            second = SecondProcess(echo, "answer")
            second.ask(b"x")
            list(second.answers(wait=True))
            os.kill(second.pid, signal.SIGTERM)
            os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
            second.close()
            with pytest.raises(BlockingIOError):
                hears.recv(1)
        finally:
            signal.set_wakeup_fd(before[1])
            signal.signal(signal.SIGTERM, before[0])


def test_a_second_signal_at_once_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An interrupt of the terminal's comes to both processes, and the first one ends the second."""

    def interrupted(_: object) -> Iterator[None]:
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        for end in ends:
            os.kill(os.getpid(), end)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)  # as many a call does, it looks for signals that have come
        yield None

    monkeypatch.setattr(sys, "unraisablehook", lambda told: os.write(2, str(told.exc_value).encode()))
    second = SecondProcess(interrupted, "answer")
    second.ask(b"x")
    with pytest.raises(HasEnded):
        list(second.answers(wait=True))
    second.close()
    assert capfd.readouterr() == ("", "")


def test_none_is_left_if_a_signal_comes_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, made = os.fork, []

    def interrupted() -> int:
        pid = fork()
        if pid:
            made.append(pid)
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # other threads do not block it
        return pid

    monkeypatch.setattr(os, "fork", interrupted)
    before = len(os.listdir("/proc/self/fd"))
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background
    try:
        with pytest.raises(KeyboardInterrupt):
            SecondProcess(echo, "answer")
    finally:
        signal.signal(signal.SIGINT, heard)
    assert not Path(f"/proc/{made[0]}").exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_left_if_descriptors_lack() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(3):  # one pipe, and half of another
            os.close(taken.pop())
        with pytest.raises(OSError, match="Too many open files"):
            SecondProcess(echo, "answer")
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) == before
