"""Operations of aten that are not deterministic on CUDA devices.

Source: the two lists in the documentation of `torch.use_deterministic_algorithms`; modules there are operations here
(or their gradients, where the list says "when attempting to differentiate").
"""

from tests.operations.recorder import Operation

RAISES = frozenset(
    {
        "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
        "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward",
        "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
        "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward",
        "_upsample_bicubic2d_aa_backward", "_upsample_lanczos2d_aa_backward", "upsample_trilinear3d_backward",
        "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss_forward",
        "nll_loss2d_forward", "nll_loss_backward", "nll_loss2d_backward", "_ctc_loss_backward", "_embedding_bag",
        "_embedding_bag_dense_backward", "put", "put_", "histc", "bincount", "median", "nanmedian", "kthvalue",
        "grid_sampler_2d_backward", "grid_sampler_3d_backward",
    }
)  # fmt: skip
"""Without a deterministic implementation: they raise under `trainer.deterministic`."""

SLOWER = frozenset(
    {
        "convolution", "convolution_backward", "replication_pad1d_backward", "replication_pad2d_backward",
        "replication_pad3d_backward", "cumsum", "cumsum_", "index_put", "index_put_", "_index_put_impl_", "scatter",
        "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_add", "index_add_",
        "index_copy", "index_copy_", "index_reduce", "index_reduce_", "max_pool3d_with_indices_backward",
        "embedding_dense_backward",
    }
)  # fmt: skip
"""With a deterministic implementation, mostly slower, that torch uses under `trainer.deterministic`."""

ALLOWED = {
    "convolution": "the patch embedding: cuDNN has deterministic kernels for it",
    "convolution_backward": "the patch embedding: cuDNN has deterministic kernels for it",
    "embedding_dense_backward": "tokens and positions of captions: torch sorts the indices, which is cheap",
    "index_put": "the gradient of one token per caption: with accumulation it always sorts the indices on CUDA",
}
"""Operation of `SLOWER` that a step may use -> reason."""


def is_nondeterministic(operation: Operation) -> bool:
    """Whether the lists contain the operation and it is not allowed.

    Deterministic are integer sums, `scatter` of one number, and `scatter_reduce` with a maximum or minimum.
    """
    if operation.name in RAISES:
        return True
    if operation.name not in SLOWER or operation.name in ALLOWED:
        return False
    if operation.name.startswith("cumsum"):
        return operation.floating
    if operation.name.startswith("scatter") and "value" in operation.overload:
        return False
    return not (operation.name.startswith("scatter_reduce") and operation.reduction in ("amax", "amin"))
