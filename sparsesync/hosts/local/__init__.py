"""What is done only where both ends of a transfer are on this machine: a :mod:`second` process for many small files."""
