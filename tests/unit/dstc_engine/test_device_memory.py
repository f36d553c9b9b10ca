"""The end of memory is recognized in what PyTorch and the libraries beneath it say."""

from __future__ import annotations

import pytest
import torch

from dstc_engine.device_memory import is_out_of_memory

CUDA_HINT = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.81 GiB. GPU 0 has a total"),
        MemoryError(),
        # A kernel's launch, and page-locked memory of `pin_memory`.
        torch.AcceleratorError("CUDA error: out of memory" + CUDA_HINT),
        RuntimeError("CUDA error: out of memory" + CUDA_HINT),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm( handle, opa"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    ],
    ids=lambda error: str(error)[:60],
)
def test_what_the_libraries_say(error: BaseException) -> None:
    assert is_out_of_memory(error)
    wrapped = RuntimeError("a compiler failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


def test_what_the_cpu_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("CUDA error: an illegal memory access was encountered" + CUDA_HINT),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        # Of one kernel: no number of slots changes it.
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
        ValueError("prompt 'a castle out of memory' is too long"),
    ],
    ids=lambda error: str(error)[:60],
)
def test_other_errors(error: BaseException | None) -> None:
    assert not is_out_of_memory(error)


def test_an_error_met_on_the_way_to_another_is_not_its_cause() -> None:
    with pytest.raises(KeyError) as caught:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            raise KeyError("row") from None
    assert not is_out_of_memory(caught.value)
