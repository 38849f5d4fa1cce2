"""The run directory, and everything that shows a run: metrics, alerts, terminal, trackers, report.

The directory is the interface: whatever shows a run only reads it. Nothing in this package imports torch.
"""
