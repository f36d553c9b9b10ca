"""Tells from an error whether memory ran out, whichever library noticed it first.

It imports no torch, so that threads which only wait for an engine need none.
"""

from __future__ import annotations

# What RuntimeErrors say, without regard to case. PyTorch's own allocator raises OutOfMemoryError;
# what allocates beside it has no class of its own.
_SAID = (
    "out of memory",  # CUDA, its driver, page-locked memory (all AcceleratorError), Triton
    "_alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_, NVRTC's
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED and others of 9
    "when calling `cublascreate(handle)`",  # no room for its workspace: NOT_INITIALIZED
    "unable to find an engine to execute this computation",  # none of cuDNN's in what is left
    "unable to find a valid cudnn algorithm",  # the same of cuDNN 7
    "you tried to allocate",  # the CPU's allocator
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is the end of a GPU's or CPU's memory.

    Fewer slots may help against all of them. Where the libraries do not tell the reason, as cuDNN
    may not, the answer is yes: what else it was shows with one slot.

        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
        True
    """
    while error is not None:
        # By name, for want of torch: its OutOfMemoryError is a RuntimeError and no MemoryError.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError):
            said = str(error).lower()
            if any(part in said for part in _SAID):
                return True
        error = error.__cause__
    return False
