"""The losses of the method, each (S, ...) -> (S,), and the order they are reported in.

Nothing is imported here: the job's result columns need the names alone, not torch.
"""

# In the order of columns in results; the last is the weighted sum of all before it.
LOSS_NAMES = (
    "structure",
    "contrast",
    "divergence",
    "style_cls",
    "style_pixels",
    "clip",
    "identity",
    "vgg_content",
    "vgg_gram",
    "range",
    "total",
)
WEIGHTED = LOSS_NAMES[:-1]
# A network is loaded when one of the losses that look through it has a weight in the preset.
SEEN_BY_DINO = ("structure", "contrast", "divergence", "style_cls")
SEEN_BY_VGG = ("vgg_content", "vgg_gram")
