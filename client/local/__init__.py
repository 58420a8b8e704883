"""The whole system on one machine without containers: install, start, watch, stop.

`stack` composes it; `supervisor` keeps its processes alive; `doctor` says what a machine lacks.
"""
