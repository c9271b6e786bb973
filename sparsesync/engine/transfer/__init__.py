"""Files on their way between two engines.

Read :mod:`records` (what is told of a file), :mod:`limits` (what both ends hold each other to), the folder
:mod:`place` (where files get their place), :mod:`outgoing` and :mod:`incoming` (a file at either end) and :mod:`jobs`
(a part of a file, compared and sent).
Then the two loops: :mod:`sender`, which decides, and :mod:`receiver`, which answers.
"""
