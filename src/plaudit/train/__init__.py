"""Training: steps, the loop, checkpoints, sessions. Importing the package costs nothing heavy.

`plaudit.train` is also the function that trains (see `plaudit.__init__`): the package is callable.
"""
