"""Files of other people's making into pixels: formats, metadata, ranges of numbers, colors, masks.

Pillow decodes; what stands here decides what it may open, and what its numbers mean.
"""
