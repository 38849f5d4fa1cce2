"""A micro-batch as a forest: every prompt once, then its completions as branches, in one packed row.

Shape letters used as suffixes everywhere in plaudit:

    T  packed tokens of a forest           N  completion tokens that are targets
    M  prompt tokens that are targets      C  completions of a forest (branches)
    P  pieces (prompts) of a forest        G  prompt groups of a batch or step
    K  completions of a group              B  micro-batches of an optimiser step
    V  vocabulary                          D  hidden size
    H  attention heads                     L  length of one segment
"""
