"""Going no faster than a number of bytes per second."""

import time


class Pace:
    """Bytes are paid for in time, in advance. A pause is not saved up for a burst."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._paid_until = time.monotonic()

    def spend(self, count: int) -> None:
        """Wait until ``count`` more bytes may be moved."""
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now) + float(count) / self._rate
        if self._paid_until - now > 0.02:
            time.sleep(self._paid_until - now)
