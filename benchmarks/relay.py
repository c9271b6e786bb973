"""A link of a given speed and delay in user space, for kernels without netem.

A TCP relay: what arrives on one side goes on to the other, each direction at ``rate`` bytes per second and ``delay``
seconds later. All connections share the link, and each may have a rate of its own, as on a long line where windows end
or packets are lost. Of what arrives faster than the link is no more taken in than a router
would hold: then the sender is no longer read from, and its TCP slows down. (A receiver that does not read is not
waited for.)

It is a good link, not a real one: nothing is lost, and a connection to the relay is made at once, a round trip
sooner than through a wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator

QUEUE = 0.05
"""Seconds of traffic that wait before the link, as in a router's buffer."""


class _Way:
    """One direction of the link."""

    def __init__(self, rate: float, delay: float, each: float) -> None:
        self._rate = rate
        self._delay = delay
        self._each = each
        self._free = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one connection sends, until it ends."""
        clock = asyncio.get_running_loop().time
        on_the_way: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                item = await on_the_way.get()
                if item is None:
                    return
                due, data = item
                if due > clock():
                    await asyncio.sleep(due - clock())
                writer.write(data)
                await writer.drain()

        own = 0.0
        delivering = asyncio.ensure_future(deliver())
        try:
            # A millisecond's worth at a time, so that connections take turns.
            while data := await reader.read(max(4096, min(1 << 16, int(min(self._rate, self._each) / 1000)))):
                self._free = max(self._free, clock()) + len(data) / self._rate
                own = max(own, clock()) + len(data) / self._each
                passed = max(self._free, own)
                on_the_way.put_nowait((passed + self._delay, data))
                ahead = passed - clock()
                if ahead > QUEUE:
                    await asyncio.sleep(ahead - QUEUE)
        except OSError:
            pass  # the other direction ends as well, and the programs at both ends say why
        on_the_way.put_nowait(None)
        with contextlib.suppress(OSError):
            await delivering
            writer.write_eof()


async def _serve(port: int, host: str, far_port: int, rate: float, delay: float, each: float) -> asyncio.AbstractServer:
    there, back = _Way(rate, delay, each), _Way(rate, delay, each)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, far_port)
        # Cancelled when the relay is closed, and then asyncio would complain of the connections that are left.
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(there.carry(reader, far_writer), back.carry(far_reader, writer))
        finally:
            for end in (writer, far_writer):
                end.close()

    return await asyncio.start_server(connected, "127.0.0.1", port)


@contextlib.contextmanager
def relay(host: str, far_port: int, rate: float, delay: float, each: float = math.inf) -> Iterator[int]:
    """A relay to ``far_port`` of ``host`` for as long as the context lasts; yields its port on 127.0.0.1.

    ``rate`` is bytes per second for all connections together, ``each`` for one of them, ``delay`` seconds, one way.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_serve(0, host, far_port, rate, delay, each), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.AbstractServer) -> None:
    server.close()
    connections = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)
