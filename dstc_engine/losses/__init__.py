"""The losses of the method: one record each, and the formulas in the files beside this one.

The records need no torch, since presets, result columns and the list of networks read them. The
formulas map (S, ...) to (S,); `guidance/guide.py` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """What is known of a loss besides its formula.

    Attributes:
        name: its column in results; the preset field `weight_<name>` is its weight.
        meaning: of that weight, in a few words.
        network: the preset field of the network that it looks through; None if it reads pixels.
        view: the image that it sees. "x0" is the estimate, "mix" that estimate mixed with x_t, "z"
            one of the two, as the preset's `noise_mix` says. Losses of one network share a view.
        needs: "style" or "prompt", without which a row has no such loss; None if every row has it.
    """

    name: str
    meaning: str
    network: str | None = None
    view: str = "z"
    needs: str | None = None


# By name, in the order of the columns in results.
LOSSES = {
    loss.name: loss
    for loss in (
        Loss("structure", "keeps the self-similarity of the content", network="dino"),
        Loss(
            "contrast", "keeps each place nearest to its own place in the content", network="dino"
        ),
        Loss("divergence", "moves away from the previous step", network="dino"),
        Loss("style_cls", "class token of the style image", network="dino", needs="style"),
        Loss("style_pixels", "pixels of the style image", needs="style"),
        Loss("clip", "the prompt", network="clips", view="mix", needs="prompt"),
        Loss("identity", "keeps a face the same person's", network="arcface"),
        Loss("vgg_content", "keeps VGG features of the content", network="vgg"),
        Loss(
            "vgg_gram",
            "Gram matrices of VGG features of the style image",
            network="vgg",
            needs="style",
        ),
        Loss("range", "keeps x0 within [-1, 1]", view="x0"),
    )
}


WEIGHTED = tuple(LOSSES)
# The last is the weighted sum of all before it.
LOSS_NAMES = (*WEIGHTED, "total")


def losses_of(network: str | None) -> tuple[str, ...]:
    """The losses that look through a network, by its preset field; None: through none."""
    return tuple(name for name, loss in LOSSES.items() if loss.network == network)


SEEN_BY_DINO, SEEN_BY_VGG = losses_of("dino"), losses_of("vgg")
