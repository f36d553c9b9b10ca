"""Trains the three networks of tiny64 at once; `python -m tiny64.train_all`."""
