"""``sparsesync migrate``: move a machine's data in two passes, and prove it.

Read :mod:`request` (what was asked for), :mod:`run` (the order of things), :mod:`preflight` (what the machines say),
:mod:`findings` (what stands in the way), :mod:`plan` (what will be done), :mod:`final_pass` and :mod:`proof`.
:mod:`text` is what a person is told, and :mod:`called` what a program gets.
"""
