"""Which ATen operations a graph may hold, and running one of them.

Graphs come from files too, so a name here is a name from outside: only operations on the list
below, that change nothing they are given, are ever looked up in torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from sw.compiler.graph import Argument, Node, Ref

#: Picks one of several results; every other target is an ATen operation.
GETITEM = "getitem"

#: Element types of values.
DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.complex64, torch.complex128),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    )
}

# No random operations, none that read files or memory that nobody wrote, none whose result's shape
# depends on data, none of a single vendor, none for gradients, and of torch's private ones only
# those that tracing leaves and that check what they are given.
ALLOWED: frozenset[str] = frozenset(  # as text: a name a line would be four screens
    """
    __and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d
    _embedding_bag _embedding_bag_forward_only _fft_c2c _fft_c2r _fft_r2c _linalg_det _linalg_eigh
    _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd _log_softmax
    _native_batch_norm_legit _safe_softmax _softmax _to_copy _weight_norm

    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm
    addmv addr adjoint affine_grid_generator alias alias_copy all amax amin aminmax angle any arange
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort as_strided asin asinh
    atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm
    bartlett_window batch_norm bilinear binary_cross_entropy binary_cross_entropy_with_logits
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    blackman_window block_diag bmm broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist
    ceil celu chain_matmul channel_shuffle cholesky cholesky_inverse cholesky_solve chunk clamp
    clamp_max clamp_min clip clone col2im column_stack combinations complex concat concatenate conj
    conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc conv_transpose1d
    conv_transpose2d conv_transpose3d convolution copy copysign corrcoef cos cosh
    cosine_embedding_loss cosine_similarity count_nonzero cov cross cross_entropy_loss cummax cummin
    cumprod cumsum cumulative_trapezoid deg2rad det detach detach_copy diag diag_embed diagflat
    diagonal diagonal_copy diagonal_scatter diff digamma dist div divide dot dropout dsplit dstack
    einsum elu embedding embedding_bag eq erf erfc erfinv exp exp2 expand expand_as expand_copy
    expm1 eye fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn
    fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2
    fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill fix flatten flip fliplr flipud
    float_power floor floor_divide fmax fmin fmod frac frexp frobenius_norm full full_like gather
    gcd ge gelu ger glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d
    group_norm gru_cell gt hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh
    heaviside hinge_embedding_loss histc histogram hsplit hstack huber_loss hypot i0 igamma igammac
    im2col imag index index_add index_copy index_fill index_put index_reduce index_select inner
    instance_norm inverse isclose isfinite isin isinf isnan isneginf isposinf isreal istft
    kaiser_window kl_div kron kthvalue l1_loss layer_norm lcm ldexp le leaky_relu lerp less
    less_equal lgamma lift_fresh lift_fresh_copy linalg_cholesky linalg_cholesky_ex linalg_cond
    linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh
    linalg_inv linalg_inv_ex linalg_lu linalg_matmul linalg_matrix_exp linalg_matrix_norm
    linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_norm linalg_qr linalg_slogdet
    linalg_solve linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv
    linalg_tensorsolve linalg_vander linalg_vecdot linalg_vector_norm linear linspace log log10
    log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and
    logical_not logical_or logical_xor logit logspace logsumexp lstm_cell lt mH mT
    margin_ranking_loss masked_fill masked_scatter matmul matrix_H matrix_exp matrix_power max
    max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish
    mm mode moveaxis movedim mse_loss msort mul multi_margin_loss multiply mv mvlgamma nan_to_num
    nanmean nanmedian nansum narrow narrow_copy native_batch_norm native_channel_shuffle
    native_group_norm native_layer_norm native_norm ne neg negative new_full new_ones new_zeros
    nextafter nll_loss nll_loss_nd norm not_equal nuclear_norm numpy_T one_hot ones ones_like outer
    pad pad_sequence pairwise_distance pdist permute permute_copy pixel_shuffle pixel_unshuffle
    polar polygamma positive pow prelu prod qr rad2deg ravel real reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj
    resolve_neg rms_norm roll rot90 round row_stack rsqrt rsub scalar_tensor scatter scatter_add
    scatter_reduce searchsorted select select_copy select_scatter selu sgn sigmoid sign signbit silu
    sin sinc sinh slice slice_copy slice_scatter slogdet smooth_l1_loss soft_margin_loss softmax
    softplus softshrink sort special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0
    special_bessel_y1 special_digamma special_entr special_erf special_erfc special_erfcx
    special_erfinv special_exp2 special_expit special_expm1 special_gammainc special_gammaincc
    special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr
    special_log_softmax special_logit special_logsumexp special_multigammaln special_ndtr
    special_ndtri special_polygamma special_psi special_round special_sinc special_softmax
    special_xlog1py special_xlogy special_zeta split split_copy split_with_sizes sqrt square squeeze
    squeeze_copy stack std std_mean stft sub subtract sum svd swapaxes swapdims t t_copy take
    take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace transpose
    transpose_copy trapezoid trapz tril tril_indices triplet_margin_loss triu triu_indices
    true_divide trunc type_as unbind unbind_copy unflatten unfold unfold_copy unsafe_chunk
    unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d vander var var_mean vdot view view_as view_as_complex view_as_real
    view_copy vsplit vstack where xlogy zero zeros zeros_like
    """.split()  # noqa: SIM905
)
_TARGET = re.compile(r"aten\.([A-Za-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
# Memory as it lies, whatever the strides of the value happen to be.
_BY_STRIDES = {"aten.as_strided.default", "aten.view.dtype"}


@cache
def operation(target: str) -> torch._ops.OpOverload:
    """The ATen operation of a target.

    Parameters
    ----------
    target : str
        ``aten.NAME.OVERLOAD``, as in ``aten.add.Tensor``.

    Raises
    ------
    ValueError
        Unless it is an operation that torch has and a graph may hold.
    """
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    name, overload = match.groups() if match else ("", "")
    packet: Any = getattr(torch.ops.aten, name, None) if name in ALLOWED else None
    if packet is None or overload not in packet.overloads():
        raise ValueError(f"operation must be one of ATen that a graph may hold, not {target!r}")
    found = getattr(packet, overload)
    assert isinstance(found, torch._ops.OpOverload)
    if found._schema.is_mutable or torch.Tag.nondeterministic_seeded in found.tags:
        raise ValueError(
            f"operation must be neither in place nor random in what it does, not {target!r}"
        )
    return found


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """What a node makes of values.

    Parameters
    ----------
    node : Node
    values : mapping of str to torch.Tensor or tuple of torch.Tensor
        At least those that the node reads, on the CPU.

    Returns
    -------
    torch.Tensor, or a tuple of them for several results

    Raises
    ------
    ValueError
        If the operation is not allowed, refuses its arguments, or makes something of another shape
        or dtype than the node states.
    """
    if node.target == GETITEM:
        return _pick(node, values)
    call = operation(node.target)
    args = [_value(a, values) for a in node.args]
    if node.target in _BY_STRIDES and args and isinstance(args[0], torch.Tensor):
        args[0] = args[0].contiguous()
    kwargs = {name: _value(a, values) for name, a in node.kwargs.items()}
    if "embedding_bag" in node.target:
        _check_offsets(node.name, kwargs.get("offsets", args[2] if len(args) > 2 else None), args)
    try:
        with torch.no_grad():
            result = call(*args, **kwargs)
    except Exception as error:  # torch raises all kinds for arguments that do not fit
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{node.name}: {node.target} refuses its arguments: {reason}") from error
    return _checked(node, result)


def _check_offsets(name: str, offsets: Any, args: list[Any]) -> None:
    """Bags must lie within the indices: torch reads where offsets say, without a look."""
    indices = args[1] if len(args) > 1 else None
    if not isinstance(indices, torch.Tensor) or not isinstance(offsets, torch.Tensor):
        raise ValueError(f"{name} must have indices and offsets by their place")
    places = offsets.flatten().tolist()
    if places != sorted(places) or (places and not 0 <= places[0] <= places[-1] <= len(indices)):
        raise ValueError(f"offsets of {name} must rise from 0 to {len(indices)} at most")


def _pick(node: Node, values: Mapping[str, Any]) -> torch.Tensor:
    results = _value(node.args[0], values) if len(node.args) == 2 else None
    index = node.args[-1] if node.args else None
    if (
        not isinstance(results, tuple)
        or type(index) is not int
        or not 0 <= index < len(results)
        or node.kwargs
    ):
        raise ValueError(
            f"{node.name}: getitem must have several results and the index of one of them"
        )
    picked = _checked(node, results[index])
    assert isinstance(picked, torch.Tensor)
    return picked


def _checked(node: Node, result: object) -> Any:
    if isinstance(result, torch.Tensor):
        if result.dtype != node.dtype or tuple(result.shape) != node.shape:
            raise ValueError(
                f"{node.name} must be {node.dtype} of shape {list(node.shape)}, "
                f"not {result.dtype} of shape {list(result.shape)}"
            )
        return result
    several = tuple(result) if isinstance(result, list | tuple) else ()
    if not several or node.dtype is not None or not all(map(torch.is_tensor, several)):
        raise ValueError(f"{node.name}: {node.target} must make tensors, not {result!r}")
    return several


def _value(argument: Argument, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Ref):
        if argument.name not in values:
            raise ValueError(f"value {argument.name!r} must be there before it is read")
        return values[argument.name]
    if isinstance(argument, tuple):
        return [_value(part, values) for part in argument]
    if isinstance(argument, torch.device) and argument.type != "cpu":
        raise ValueError(f"device must be the CPU, not {str(argument)!r}")
    return argument
