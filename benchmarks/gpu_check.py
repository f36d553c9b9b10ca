"""All that is to be known of a GPU, in one command and a few minutes.

    python -m benchmarks.gpu_check --minutes 8 --json gpu_check.json
    python -m benchmarks.gpu_check --parts parity bits --minutes 2
    python -m benchmarks.gpu_check --device cpu --shrink --minutes 3     to try it out

Needs torch, torchvision, timm and open_clip (with ftfy and regex), no Ray, no weights, no network.
On a machine without open_clip bring its wheels: `pip download --no-deps open_clip_torch ftfy regex
wcwidth` beforehand, `pip install --no-deps *.whl` there.

Parts, each a process of its own, so that a dead context or a compilation without end takes no other
along; each is cut off at its share of the time, and keeps what it has found by then:

- parity: the golden chains in fp32;
- watch: what steps of full size ask of the card (`kernel_watch`): waits, types, attention;
- bits: the same rows again, alone, and in another slot: equal to the last bit, or how far apart;
- slots: what `--slots auto` finds, and what it starts from;
- speed: images per second, the step and its memory, by preset, slots and way: eager, compiled.

The file is written after each part. Exit code 1: a part found something amiss or broke; 2: nothing
can run here, and why.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# As `python benchmarks/gpu_check.py`, Python looks for modules in benchmarks/ alone.
sys.path.insert(0, str(ROOT))

# Share of the time that is left when a part begins, in the order in which they run.
PARTS = {"parity": 0.2, "watch": 0.25, "bits": 0.2, "slots": 0.2, "speed": 1.0}
_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open_clip_torch",
    "ftfy": "ftfy",
    "regex": "regex",
    "safetensors": "safetensors",
    "PIL": "pillow",
}
_HOW = (
    "Without a network: `pip download --no-deps PACKAGE...` elsewhere (open_clip_torch wants ftfy, "
    "regex and wcwidth beside it), carry the wheels, `pip install --no-deps *.whl`."
)
# A part that is told to end has so long, before it is ended.
_GRACE_S = 3.0


def missing(device: str) -> list[str]:
    """What this machine lacks for the command, a line each."""
    lacking = [
        f"package {package}: not installed"
        for module, package in _NEEDED.items()
        if importlib.util.find_spec(module) is None
    ]
    if not lacking and device.startswith("cuda"):
        import torch

        if torch.version.cuda is None:
            lacking.append(f"PyTorch {torch.__version__} is built without CUDA")
        elif not torch.cuda.is_available():
            lacking.append("no GPU: torch.cuda.is_available() is false; --device cpu tries it out")
    return lacking


def run_part(part: str, arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Runs a part in its own process, for so many seconds at most; what it found."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", part]
        command += ["--json", str(file), "--device", arguments.device]
        command += ["--shrink"] * arguments.shrink + ["--minutes", str(seconds / 60)]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        ended = _waited(process, seconds)
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found["seconds"] = round(time.monotonic() - started, 1)
    if not ended:
        found["cut_off"] = f"after {seconds:.0f} s"
    elif process.returncode:
        found.setdefault("amiss", []).append(f"{part}: ended with {process.returncode}")
    return found


def _waited(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ended by itself; compilers that it started end with it."""
    for wait, number in ((seconds, signal.SIGTERM), (_GRACE_S, signal.SIGKILL)):
        try:
            process.wait(wait)
            return number == signal.SIGTERM
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
    process.wait()
    return False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together (8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try it out (cuda)")
    parser.add_argument("--shrink", action="store_true", help="small networks of the same kinds")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    lacking = missing(arguments.device)
    if lacking:
        print("gpu_check cannot run here:", *lacking, sep="\n  ", file=sys.stderr)
        if any(line.startswith("package") for line in lacking):
            print(_HOW, file=sys.stderr)
        return 2
    if arguments.part:
        return _work(arguments)
    until = time.monotonic() + 60 * arguments.minutes
    found: dict[str, Any] = {"device": arguments.device, "parts": {}}
    for part in [name for name in PARTS if name in arguments.parts]:
        left = until - time.monotonic()
        if left < _GRACE_S:
            found["parts"][part] = {"cut_off": "no time was left for it"}
        else:
            print(f"{part}: {PARTS[part] * left:.0f} s at most", file=sys.stderr, flush=True)
            seconds = PARTS[part] * left - _GRACE_S
            found["parts"][part] = run_part(part, arguments, max(seconds, 1.0))
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return _told(found, arguments.json)


def _work(arguments: argparse.Namespace) -> int:
    """A part, in its own process."""
    from benchmarks.gpu_parts import RUN, Notes

    notes = Notes(arguments.json, time.monotonic() + 60 * arguments.minutes)
    RUN[arguments.part](notes, arguments.device, arguments.shrink)
    return 0


def _told(found: dict[str, Any], file: Path) -> int:
    broken = False
    for part, of_part in found["parts"].items():
        amiss = of_part.get("amiss", [])
        broken = broken or bool(amiss)
        state = "AMISS" if amiss else "cut off" if "cut_off" in of_part else "good"
        notes = [*amiss, *of_part.get("skipped", [])]
        cut = [of_part["cut_off"]] if "cut_off" in of_part else []
        print(f"{part}: {state} ({of_part.get('seconds', 0)} s)", *cut, *notes, sep="\n  ")
        for line in of_part.get("lines", []):
            print(f"  {line}")
    print(f"All numbers: {file}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
