"""What tests are about, made in one line: rows, datasets, runs, evaluations, pictures.

Each builder makes something sound; a test names only what it is about, by keywords.
"""
