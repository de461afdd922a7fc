"""What torch does not promise to compute twice alike on a CUDA device, by the names of aten.

Source: the documentation of `torch.use_deterministic_algorithms`, whose two lists these are; a module's name there is
here that of the operation (or of its gradient, where the list says "when attempting to differentiate") behind it.
"""

from tests.operations.recorder import Operation

RAISES = frozenset(
    {
        "avg_pool3d_backward",
        "_adaptive_avg_pool2d_backward",
        "_adaptive_avg_pool3d_backward",
        "adaptive_max_pool2d_backward",
        "adaptive_max_pool3d_backward",
        "fractional_max_pool2d_backward",
        "fractional_max_pool3d_backward",
        "max_unpool2d",
        "max_unpool3d",
        "upsample_linear1d_backward",
        "upsample_bilinear2d_backward",
        "_upsample_bilinear2d_aa_backward",
        "upsample_bicubic2d_backward",
        "_upsample_bicubic2d_aa_backward",
        "_upsample_lanczos2d_aa_backward",
        "upsample_trilinear3d_backward",
        "reflection_pad1d_backward",
        "reflection_pad2d_backward",
        "reflection_pad3d_backward",
        "nll_loss_forward",
        "nll_loss2d_forward",
        "nll_loss_backward",
        "nll_loss2d_backward",
        "_ctc_loss_backward",
        "_embedding_bag",
        "_embedding_bag_dense_backward",
        "put",
        "put_",
        "histc",
        "bincount",
        "median",
        "nanmedian",
        "kthvalue",
        "grid_sampler_2d_backward",
        "grid_sampler_3d_backward",
    }
)
"""Without a deterministic form: they raise under `trainer.deterministic`."""

SLOWER = frozenset(
    {
        "convolution",
        "convolution_backward",
        "replication_pad1d_backward",
        "replication_pad2d_backward",
        "replication_pad3d_backward",
        "cumsum",
        "cumsum_",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "scatter",
        "scatter_",
        "scatter_add",
        "scatter_add_",
        "scatter_reduce",
        "scatter_reduce_",
        "index_add",
        "index_add_",
        "index_copy",
        "index_copy_",
        "index_reduce",
        "index_reduce_",
        "max_pool3d_with_indices_backward",
        "embedding_dense_backward",
    }
)
"""With a deterministic form that torch takes under `trainer.deterministic`, most of them at a price."""

SETTLED = {
    "convolution": "the patch embedding: cuDNN has deterministic kernels for it",
    "convolution_backward": "the patch embedding: cuDNN has deterministic kernels for it",
    "embedding_dense_backward": "tokens and positions of captions: torch sorts the indices, which costs little",
    "index_put": "the gradient of one token per caption: accumulating, it sorts the indices on CUDA, mode or no mode",
}
"""Operation of `SLOWER` that a step may use -> why."""


def is_nondeterministic(operation: Operation) -> bool:
    """Whether the lists name the operation and nothing of it is settled.

    Not meant: a sum over whole numbers; `scatter` of one number; `scatter_reduce` of the largest or smallest value,
    whatever the order.
    """
    if operation.name in RAISES:
        return True
    if operation.name not in SLOWER or operation.name in SETTLED:
        return False
    if operation.name.startswith("cumsum"):
        return operation.floating
    if operation.name.startswith("scatter") and "value" in operation.overload:
        return False
    return not (operation.name.startswith("scatter_reduce") and operation.reduction in ("amax", "amin"))
