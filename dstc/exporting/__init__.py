"""Data sets of finished runs, in the forms that training loaders read."""
