"""What is made of the sources for people to install.

:mod:`pyz` makes one file of all. :mod:`manual` and :mod:`completion` make what setup.py adds to the wheel: the pages of
the manual, and what shells complete.
"""
