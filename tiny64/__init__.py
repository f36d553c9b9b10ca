"""How the default preset was made: its data set, its networks, and how good its images are."""
