"""From what a team has to a manifest: readers of other forms, pairing, checks; it starts no Ray."""
