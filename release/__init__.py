"""What is made of the sources for people to install: :mod:`pyz` is one file."""
