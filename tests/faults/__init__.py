"""Faults on purpose: the whole pipeline, killed at random while board and storage misbehave.

`python -m tests.faults --seed 1 --kills 50` runs it; `proxy` and `mishaps` also stand between other
tests and real servers.
"""
