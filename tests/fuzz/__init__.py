"""Fuzzing: everything that is read from outside, given bytes that nobody has thought of.

`make fuzz` is `python -m tests.fuzz`: each target for some seconds, and a table of what came of it.
A target is a function of bytes that may raise the errors that it documents and nothing else, within
bounds of a processor's time and of memory. `corpus/TARGET/` has small inputs that were of interest,
which `make test` replays; those whose names begin with `whole` must be taken.
"""
