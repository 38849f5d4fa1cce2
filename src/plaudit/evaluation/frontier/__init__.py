"""`plaudit evaluate frontier`: what a policy gains in proxy and gold reward for its distance from the reference.

`points` finds the models, `sampled` lets them answer and scores the answers, `logged` reads a run's own log instead,
`analysis` makes the numbers, `page` and `run` write them.
"""
