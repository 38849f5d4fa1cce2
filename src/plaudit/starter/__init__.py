"""Starter configurations: rows are looked at, a method is chosen, and a file is written that says why.

rows       what the rows of a file are, and what stands beside it
fits       which methods learn from them, the best one first
sizes      how many groups there are, and how long they are
machine    what the model and the machine's memory say
settings   which keys are written, with which values, and why
text       the file
"""
