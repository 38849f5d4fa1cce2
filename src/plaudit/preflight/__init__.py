"""What can be found out about a run before its first step: environment, rows, template, memory, time, disk.

Runs by itself before every training (`run.check`), and alone as `plaudit check`.
"""
