"""Evaluation of a run (`dstc evaluate`): configuration, measurement, summary."""
