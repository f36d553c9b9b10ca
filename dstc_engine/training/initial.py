"""Weights that a run starts from, where it does not start from random ones.

A network that knows one domain learns another in a fraction of the steps: fine-tuning. The run is a
new one all the same, with an optimiser, a learning rate and averaged weights of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.errors import UserError, WeightsError
from dstc_engine.weights import architectures
from dstc_engine.weights.formats import check_layout, shapes, with_all_rows
from dstc_engine.weights.load import read_state
from dstc_engine.weights.record import Weights
from dstc_engine.weights.registry import file_sha256, find, verify


@dataclass(frozen=True)
class Initial:
    """What a run started from, as its checkpoint and its description keep it.

    Attributes:
        name: as it was given. sha256: of the file.
    """

    name: str
    sha256: str


def begin(
    network: nn.Module,
    state: Mapping[str, Any] | None,
    initial: str | None,
    folder: Path,
    kind: str,
    sizes: Mapping[str, Any],
) -> Initial | None:
    """What a run starts from, or once started from; a new one's network is filled with it.

    Args:
        state: the checkpoint of the run in `folder`, if there is one. initial: what the caller
            gave; the others as in `load_initial`.

    Raises:
        UserError: as `load_initial` and `read_initial`.
    """
    if state is not None:
        return read_initial(state, initial, folder)
    return None if initial is None else load_initial(network, initial, kind, sizes)


def load_initial(network: nn.Module, name: str, kind: str, sizes: Mapping[str, Any]) -> Initial:
    """Fills a network that is to be trained with weights there are.

    Args:
        network: of random weights, on the CPU.
        name: of registered weights, the path of a description, or the folder of an earlier run.
        kind: "prior", "vit" or "clip". sizes: the network's own, as its description names them.

    Raises:
        UserError: there are no such weights, or they are those of another network.
    """
    described = str(Path(name) / f"{kind}.json") if Path(name).is_dir() else name
    weights = find(described, kind)
    path = verify(described)
    _check_sizes(weights, kind, sizes, name)
    expected = shapes(network.state_dict())
    state = with_all_rows(read_state(weights, path), expected)
    try:
        check_layout(shapes(state), expected, path)
    except WeightsError as error:
        raise UserError(f"cannot start from {name}: it is another network; {error}") from error
    network.load_state_dict(state)
    return Initial(name, file_sha256(path))


def _check_sizes(weights: Weights, kind: str, sizes: Mapping[str, Any], name: str) -> None:
    # Tensors alone do not tell: any number of heads fits the same ones.
    if kind == "prior":
        schedule = architectures.noise_schedule(weights)
        if schedule != NoiseSchedule():
            raise UserError(
                f"cannot start from {name}: it was trained with {schedule}, expected "
                f"{NoiseSchedule()}"
            )
        described = asdict(architectures.unet_config(weights))
    elif weights.is_published:
        return  # their tensors differ from ours in number and shape
    else:
        described = weights.description()["architecture"]
    found, expected = (json.loads(json.dumps(dict(fields))) for fields in (described, sizes))
    wrong = [
        f"{field} is {found[field]}, expected {value}"
        for field, value in expected.items()
        if field != "dropout" and field in found and found[field] != value
    ]
    if wrong:
        raise UserError(f"cannot start from {name}: it is another network; {'; '.join(wrong)}")


def read_initial(state: Mapping[str, Any], name: str | None, folder: Path) -> Initial | None:
    """What the run of this checkpoint once started from; None for random weights.

    Args:
        state: the checkpoint. name: what the caller gave to start from; None to just go on.

    Raises:
        UserError: the run in `folder` started from something else than `name`.
    """
    saved = state.get("initial")
    initial = Initial(**saved) if saved else None
    if name is not None and name != (initial.name if initial else None):
        began = f"from {initial.name}" if initial else "from random weights"
        raise UserError(
            f"{folder}: the run there started {began}, not from {name}; give another folder for a "
            "new run, or no weights to start from to continue this one"
        )
    return initial
