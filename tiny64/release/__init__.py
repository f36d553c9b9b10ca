"""What made the files that a release ships: the demo manifest, and the tiny weights."""
