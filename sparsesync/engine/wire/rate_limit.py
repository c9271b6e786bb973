"""Going no faster than a number of bytes per second."""

import time


class RateLimit:
    """A limit in bytes per second, ``rate``. A pause is not saved up for a burst."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._paid_until = time.monotonic()

    def spend(self, count: int) -> None:
        """Wait for the time that ``count`` bytes take."""
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now) + float(count) / self.rate
        if self._paid_until - now > 0.02:
            time.sleep(self._paid_until - now)
