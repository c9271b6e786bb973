"""What a machine is asked for a migration, one module a question.

Read :mod:`registry` first, which lists the questions and answers the short ones. :mod:`system`, :mod:`docker`,
:mod:`survey`, :mod:`probe`, :mod:`in_use` and :mod:`presets` answer one each; :mod:`mounts` tells for them where a path
is in its filesystem.
"""
