"""The innermost cause of an error that came out of Ray, as one line.

Ray wraps what went wrong in a worker up to three times, and ends the text with advice on its own
options. What a person needs is the first exception of the chain. A worker hands errors on without
`__cause__`, so the chain is found where Ray keeps it: in the text of the traceback.
"""

from __future__ import annotations

import re

from dstc.text import redact, visible

_LONG = 500
_PERIOD = re.compile(r"(?<!\.)\.$")  # at the end, and not the dots of what is left out
_CHAINED = "The above exception was the direct cause of the following exception:"
# What a traceback begins with, in Python's words or in Ray's; frames follow.
_HEAD = re.compile(r"Traceback \(most recent call last\):\n|\(pid=\d+, ip=[^)\n]*\)+\n")
# Ray Data writes into the arguments of any exception that leaves a task: on a line of its own, in
# the repr of a text, or as one more argument.
_RETRY_ADVICE = re.compile(
    r"(?P<quote>(?:: |, )['\"])?(?:\n|\\n)?Failed to [^\n]{1,200}? after \d+/\d+ attempts "
    r"\(total backoff [\d.]+s\)\..*?if you believe this to be transient\.(?(quote)['\"])",
    re.DOTALL,
)
# What a traceback puts before the name of a class.
_MODULE = re.compile(r"^(?:\w+\.)+(?=[\w()]+(?::|\n|$))")
# Ids and addresses of an actor are on lines of their own.
_FIELD = re.compile(r"(?:actor_id|class_name|pid|name|namespace|ip): ")
# Where the messages of Ray's own errors turn from facts to advice.
_ADVICE = re.compile(
    r"[.;,]?\s+(?:Some common causes|There are some potential|If (?:the process|this is expected)|"
    r"To (?:see|change|troubleshoot|increase|reduce|disable)\b|Refer to|For more|Check |Consider |"
    r"Tip:|See |Set |Top \d+ memory)",
    re.IGNORECASE,
)


def innermost(error: BaseException) -> str:
    """The first exception of the chain: its type, what it says, and the notes on it.

    Args:
        error: of Ray, or any other.

    Returns:
        One visible line of at most 500 characters, without secrets and without Ray's advice, such
        as `KeyError: 'x'; manifest rows 32 to 47 (shard 2)`.
    """
    text = getattr(error, "traceback_str", None)
    if not isinstance(text, str) or not text.strip():
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        text = "\n".join([f"{_type_name(error)}: {error}", *notes])
    text = _said(without_advice(text).partition(_CHAINED)[0])
    is_rays, text = text.startswith("ray."), _MODULE.sub("", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if is_rays:
        told = " ".join(line for line in lines if not _FIELD.match(line))
        told = _ADVICE.split(told, maxsplit=1)[0]
    else:
        told = "; ".join(lines)
    # A message may be a megabyte; more than this is never shown.
    told = _PERIOD.sub("", visible(redact(told[: 20 * _LONG])).rstrip(";, "))
    return told if len(told) <= _LONG else told[:_LONG] + " ..."


def without_advice(text: str) -> str:
    """A text without what Ray Data added on its own options for retries."""
    return _RETRY_ADVICE.sub("", text) if "(total backoff" in text else text


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _said(block: str) -> str:
    """What stands after the last traceback in a text: the exception that it ended with."""
    heads = list(_HEAD.finditer(block))
    if not heads:
        return block.strip()
    lines = block[heads[-1].end() :].splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith(" "):
            return "\n".join(lines[number:]).strip()
    return block.strip()
