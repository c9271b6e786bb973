"""The options of ``sync``: its own (:mod:`own`), and those of a call in Python (:mod:`call`).

What one of them, ``--seed-track``, asks of a run is in :mod:`tracked`.
"""
