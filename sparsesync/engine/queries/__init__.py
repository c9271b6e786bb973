"""What a machine is asked for a migration, one module a question.

Read :mod:`registry` first, which lists the questions. :mod:`system`, :mod:`docker`, :mod:`survey`, :mod:`probe`,
:mod:`in_use`, :mod:`presets` and :mod:`shell` answer one each, :mod:`files` the short ones; :mod:`mounts` tells for
them where a path is in its filesystem.
"""
