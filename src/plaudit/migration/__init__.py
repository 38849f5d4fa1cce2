"""Configurations of TRL, LLaMA-Factory and axolotl as configurations of ours, with a list of what has no counterpart.

reading/   a file, script or command → settings: key, value, place; nothing is executed
tables/    one line per key of each tool: what it is here
parts/     what several keys mean together: the loss, the data, the size of a step, the schedule, …
draft      our configuration while it is made, and what became of each setting
"""
