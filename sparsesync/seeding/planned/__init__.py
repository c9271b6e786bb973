"""The files that are to be seeded: kept in few bytes of memory, however many there are.

Imported by its neighbours in :mod:`..seeding` alone.
"""
