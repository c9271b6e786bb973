"""The ``sparsesync`` command: arguments in, lines and an exit status out.

Read :mod:`main` first, which parses the arguments and runs all commands but two. Those are :mod:`map`, the forms that a
map is printed in, and :mod:`migrate`.
"""
