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
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    )
}

# No random operations, none that read files or memory that nobody wrote, none whose result's shape
# depends on data, none of a single vendor, none for gradients, and of torch's private ones only
# those that tracing leaves and that check what they are given.
ALLOWED: frozenset[str] = frozenset(  # as text: a name a line would be four screens
    """
    __and__ __or__ __xor__ __lshift__ __rshift__ _adaptive_avg_pool2d _adaptive_avg_pool3d
    _log_softmax _safe_softmax _softmax _to_copy _weight_norm _native_batch_norm_legit

    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr
    affine_grid_generator alias all amax amin aminmax any arange arccos arccosh arcsin arcsinh
    arctan arctan2 arctanh argmax argmin argsort as_strided asin asinh atan atan2 atanh avg_pool1d
    avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor block_diag bmm broadcast_to bucketize cat cdist ceil
    celu channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im concat constant_pad_nd
    contiguous conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
    convolution copy copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod
    cumsum deg2rad detach diag diag_embed diagonal diagonal_scatter diff digamma dist div divide dot
    dropout einsum elu embedding eq erf erfc erfinv exp exp2 expand expand_as expm1 eye fill flatten
    flip float_power floor floor_divide fmax fmin fmod frac full full_like gather ge gelu glu
    grid_sampler grid_sampler_2d grid_sampler_3d group_norm gt hann_window hamming_window hardshrink
    hardsigmoid hardswish hardtanh heaviside hypot i0 im2col index index_add index_copy index_fill
    index_put index_select instance_norm isclose isfinite isin isinf isnan isneginf isposinf kron
    layer_norm ldexp le leaky_relu lerp lgamma lift_fresh lift_fresh_copy linalg_cross linalg_norm
    linalg_vecdot linalg_vector_norm linalg_matrix_norm linalg_matmul linear linspace log log10
    log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logical_and logical_not logical_or
    logical_xor logit logspace logsumexp lt mH mT masked_fill masked_scatter matmul max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
    maximum mean median min minimum mish mm movedim mse_loss mul multiply mv nan_to_num nanmean
    nansum narrow native_channel_shuffle native_group_norm native_layer_norm ne neg new_full
    new_ones new_zeros norm numpy_T one_hot ones ones_like outer pad pairwise_distance permute
    pixel_shuffle pixel_unshuffle positive pow prelu prod rad2deg ravel reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape rms_norm roll rot90 round rsqrt
    rsub scalar_tensor scatter scatter_add scatter_reduce searchsorted select select_scatter selu
    sgn sigmoid sign signbit silu sin sinc sinh slice slice_scatter softmax softplus softshrink sort
    special_erf special_expit special_expm1 special_log1p special_log_softmax special_logsumexp
    special_softmax special_xlogy split split_with_sizes sqrt square squeeze stack std std_mean sub
    subtract sum swapaxes swapdims t take take_along_dim tan tanh tensor_split tensordot threshold
    tile to topk trace transpose tril tril_indices triu triu_indices true_divide trunc type_as
    unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as where xlogy zero zeros
    zeros_like
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
    try:
        with torch.no_grad():
            result = call(*args, **kwargs)
    except Exception as error:  # torch raises all kinds for arguments that do not fit
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{node.name}: {node.target} refuses its arguments: {reason}") from error
    return _checked(node, result)


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
