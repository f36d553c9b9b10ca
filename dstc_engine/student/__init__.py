"""Students: looks learned from a guided run, then applied at the cost of one forward pass.

A look is what a row asks for besides its content. Guidance makes a look image by image, at the cost
of hundreds of passes; a student is a small network that has seen some hundred of these results.
"""
