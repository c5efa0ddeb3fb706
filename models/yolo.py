"""Network description (YOLOv5's yaml grammar, as a dict) -> network.

The names of a description's rows (:mod:`models.description`) are looked up in :data:`LAYERS`; nothing is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from models.attention import C3CBAM, CBAM
from models.common import C3, SPPF, Bottleneck, Concat, Conv
from models.description import Description, Row, is_number
from models.heads import Detect, ViewHead
from utils.log import InputError, printable, shown

VIEW_HIDDEN = 512  # channels of the view head's convolution, before scaling, as in the joint networks' yamls
MOST_ANCHORS = 100  # a level
MOST_PARAMETERS = 2**30  # of a network: 4 GB in single precision; YOLOv5x6 has 140 million
UPSAMPLING = ("nearest", "bilinear", "bicubic", "nearest-exact")


AnyModule = TypeVar("AnyModule", bound=nn.Module)


@runtime_checkable
class Fusable(Protocol):
    """A module with batch normalisations that it can fold into its convolutions."""

    def fuse(self) -> None: ...


class Output(NamedTuple):
    """What a network gives for a batch of B images.

    Attributes:
        raw: Detect's maps, a level each (B, na, H_i, W_i, 5 + nc), before the sigmoid; none of a classifier alone.
        view: view logits (B, nv), or None for a network without a view head.
        boxes: decoded predictions (B, N, 5 + nc) in pixels of the input, in evaluation mode only; None of a classifier.
    """

    raw: list[Tensor]
    view: Tensor | None
    boxes: Tensor | None


class Shape(NamedTuple):
    """What is known of a layer's output while the network is built: channels, and input pixels per cell."""

    channels: int
    stride: float


Built = tuple[nn.Module, Shape]
Builder = Callable[[Description, Row, list[Shape]], Built]


def _conv(d: Description, row: Row, inputs: list[Shape]) -> Built:
    out, *rest = row.arguments
    module = _repeated(d, row, lambda c: Conv(c, d.width(out), *rest), inputs[0].channels, d.width(out))
    stride = inputs[0].stride * (rest[1] if len(rest) > 1 else 1) ** d.depth(row.number)
    return module, Shape(d.width(out), stride)


def _bottleneck(d: Description, row: Row, inputs: list[Shape]) -> Built:
    out, *rest = row.arguments
    module = _repeated(d, row, lambda c: Bottleneck(c, d.width(out), *rest), inputs[0].channels, d.width(out))
    return module, Shape(d.width(out), inputs[0].stride)


def _sppf(d: Description, row: Row, inputs: list[Shape]) -> Built:
    out, *rest = row.arguments
    module = _repeated(d, row, lambda c: SPPF(c, d.width(out), *rest), inputs[0].channels, d.width(out))
    return module, Shape(d.width(out), inputs[0].stride)


def _c3(d: Description, row: Row, inputs: list[Shape]) -> Built:
    out, *rest = row.arguments
    return C3(inputs[0].channels, d.width(out), d.depth(row.number), *rest), Shape(d.width(out), inputs[0].stride)


def _c3cbam(d: Description, row: Row, inputs: list[Shape]) -> Built:
    out, *rest = row.arguments
    shortcut = rest[0] if rest else True
    module = C3CBAM(inputs[0].channels, d.width(out), d.depth(row.number), shortcut, d.cbam_gate)
    return module, Shape(d.width(out), inputs[0].stride)


def _cbam(d: Description, row: Row, inputs: list[Shape]) -> Built:
    channels = inputs[0].channels
    arguments = [*row.arguments, *(None, 7, 16)[len(row.arguments) :]]
    stated, kernel, reduction = arguments
    # forks write the (unscaled) output channels first; attention cannot change them
    if stated is not None and d.width(stated) != channels:
        raise ValueError(f"expected {channels} channels as its input has, got {d.width(stated)}")
    return CBAM(channels, kernel, reduction, d.cbam_gate), inputs[0]


def _upsample(d: Description, row: Row, inputs: list[Shape]) -> Built:
    size, scale, mode = row.arguments
    if mode not in UPSAMPLING:
        raise ValueError(f"mode: expected one of {', '.join(UPSAMPLING)}, got {shown(mode)}")
    return nn.Upsample(size, scale, mode), Shape(inputs[0].channels, inputs[0].stride / scale)


def _concat(d: Description, row: Row, inputs: list[Shape]) -> Built:
    if len({shape.stride for shape in inputs}) != 1:
        raise ValueError(f"its inputs have different strides: {[shape.stride for shape in inputs]}")
    if row.arguments != (1,):
        raise ValueError(f"expected [1], the channels' dimension, got {shown(list(row.arguments))}")
    return Concat(1), Shape(sum(shape.channels for shape in inputs), inputs[0].stride)


def _detect(d: Description, row: Row, inputs: list[Shape]) -> Built:
    nc, anchors = row.arguments
    if (
        isinstance(anchors, int) and not isinstance(anchors, bool) and 0 < anchors <= MOST_ANCHORS
    ):  # so many anchors a level, to be found from the data (autoanchor)
        anchors = [[step * shape.stride for step in range(2, 2 + anchors) for _ in "wh"] for shape in inputs]
    if not isinstance(anchors, list) or len({len(level) for level in anchors}) != 1 or len(anchors) != len(inputs):
        raise ValueError(f"anchors: expected {len(inputs)} lists of the same even length, got {shown(anchors)}")
    if not all(is_number(side) and side > 0 for level in anchors for side in level) or len(anchors[0]) % 2:
        raise ValueError(f"anchors: expected widths and heights in pixels, got {shown(anchors)}")
    strides = [int(shape.stride) for shape in inputs]
    return Detect(nc, anchors, [shape.channels for shape in inputs], strides), Shape(0, 0)


def _view_head(d: Description, row: Row, inputs: list[Shape]) -> Built:
    views, hidden = row.arguments
    if len(inputs) != 1:
        raise ValueError(f"expected one layer to read, got {len(inputs)}")
    return ViewHead(inputs[0].channels, views, d.width(hidden), d.view_dropout), Shape(0, 0)


LAYERS: dict[str, Builder] = {
    "Conv": _conv,
    "Bottleneck": _bottleneck,
    "C3": _c3,
    "C3CBAM": _c3cbam,
    "CBAM": _cbam,
    "SPPF": _sppf,
    "Concat": _concat,
    "nn.Upsample": _upsample,
    "Detect": _detect,
    "ViewHead": _view_head,
}


class Network(nn.Module):
    """A network built from a description; state names are ``model.<layer index>.<...>`` as in YOLOv5.

    Args:
        description: the yaml's mapping. ``nc`` and ``nv`` in it are replaced by the arguments of that name, if given.
        nc: number of box classes.
        nv: number of views.
        with_view: False leaves the view head out (detection alone).
        view_dropout: dropout before the view head's linear layer.

    Raises:
        InputError: an unknown layer or key, a row that does not fit.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        nc: int | None = None,
        nv: int | None = None,
        with_view: bool = True,
        view_dropout: float | None = None,
    ) -> None:
        super().__init__()
        given = {"nc": nc, "nv": nv, "view_dropout": view_dropout}
        mapping = {**copy.deepcopy(dict(description)), **{k: v for k, v in given.items() if v is not None}}
        checked = Description(mapping, LAYERS)
        if not with_view and checked.rows[-1].name == "ViewHead":
            mapping["head"] = mapping["head"][:-1]
            checked = Description(mapping, LAYERS)
        if not with_view and any(row.name == "ViewHead" for row in checked.rows):
            raise InputError("network description: expected the ViewHead as the last layer, so that it can be left out")
        self.description: dict[str, Any] = mapping
        if torch.get_default_device().type != "meta":
            _check_affordable(checked)
        layers, self.sources, stride = _build(checked)
        self.model = nn.ModuleList(layers)
        self.detect_index = next((i for i, layer in enumerate(layers) if isinstance(layer, Detect)), None)
        self.view_index = next((i for i, layer in enumerate(layers) if isinstance(layer, ViewHead)), None)
        self._readers: dict[int, set[int]] = {index: set() for index in range(-1, len(layers))}
        for index, sources in enumerate(self.sources):
            for source in sources:
                self._readers[source].add(index)
        #: Image sides must be multiples of this many pixels.
        self.max_stride = stride if self.detect_index is None else max(self.detect.strides)

    @property
    def detect(self) -> Detect:
        """The box head; only a network with box classes (``nc``) has one."""
        if self.detect_index is None:
            raise ValueError("expected a network with a Detect layer, got a classifier alone")
        return cast(Detect, self.model[self.detect_index])

    @property
    def nc(self) -> int:
        """Number of box classes; 0 in a classifier alone."""
        return 0 if self.detect_index is None else self.detect.nc

    @property
    def view_head(self) -> ViewHead | None:
        """The view head, or None in a detector alone."""
        return None if self.view_index is None else cast(ViewHead, self.model[self.view_index])

    @property
    def nv(self) -> int:
        """Number of views; 0 in a detector alone."""
        return self.view_head.linear.out_features if self.view_head else 0

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1], sides multiples of ``max_stride``; boxes are decoded in evaluation mode."""
        return self.output(self.run(range(len(self.model)), {-1: images}))

    def run(self, layers: Sequence[int], known: Mapping[int, Tensor]) -> dict[int, Any]:
        """Run some of the layers, in ascending order; what they read is ``known`` or made by one of them.

        Args:
            layers: their indices.
            known: outputs of other layers, by index; -1 is the images.

        Returns:
            What is left after the last of them: outputs that none of ``layers`` reads, and those that others read, too.
        """
        kept: dict[int, Any] = dict(known)
        inside = set(layers)
        for index in layers:
            layer = self.model[index]
            inputs = [kept[source] for source in self.sources[index]]
            kept[index] = layer(inputs if isinstance(layer, Concat | Detect) else inputs[0])
            for source in self.sources[index]:
                readers = self._readers[source]
                if readers <= inside and index == max(readers):
                    kept.pop(source, None)  # a row may read a layer twice
        return kept

    def output(self, outputs: Mapping[int, Any]) -> Output:
        """The heads' outputs among those of :meth:`run`, as the network's; boxes are decoded in evaluation mode."""
        raw = [] if self.detect_index is None else outputs[self.detect_index]
        view = None if self.view_index is None else outputs[self.view_index]
        return Output(raw, view, self.detect.decode(raw) if raw and not self.training else None)


def fused(network: AnyModule) -> AnyModule:
    """A copy for inference: evaluation mode, each batch normalisation folded into its convolution, no gradients."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, Fusable):
            module.fuse()
    return network


def classifier_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone of a network yaml with a view head on its end and nothing else: a classifier alone."""
    return {**description, "head": [[-1, 1, "ViewHead", ["nv", VIEW_HIDDEN]]]}


def _build(description: Description) -> tuple[list[nn.Module], list[tuple[int, ...]], int]:
    """The layers in order, for each the absolute indices it reads, and the coarsest stride of all."""
    shapes: dict[int, Shape] = {-1: Shape(3, 1)}
    layers: list[nn.Module] = []
    for row in description.rows:
        row = Row(row.index, row.sources, row.number, row.name, tuple(map(description.value, row.arguments)))
        try:
            module, shapes[row.index] = LAYERS[row.name](description, row, [shapes[i] for i in row.sources])
        except (TypeError, ValueError, IndexError, RuntimeError, ArithmeticError) as error:
            raise InputError(
                f"network description: layer {row.index} ({row.name}) with args {shown(list(row.arguments))}: "
                f"{printable(str(error), 300)}"
            ) from error
        layers.append(module)
    names = [row.name for row in description.rows]
    heads = names.count("Detect"), names.count("ViewHead")
    if max(heads) != 1:
        raise InputError("network description: expected one Detect layer and at most one ViewHead, or a ViewHead alone")
    strides = [int(shape.stride) for shape in shapes.values()]
    return layers, [row.sources for row in description.rows], max(strides)


def _check_affordable(description: Description) -> None:
    """Build it without numbers first: a few characters of a description can ask for more memory than there is."""
    with torch.device("meta"):
        layers, _, _ = _build(description)
    count = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    if count > MOST_PARAMETERS:
        raise InputError(f"network description: expected at most {MOST_PARAMETERS:,} parameters, got {count:,}")


def _repeated(
    description: Description, row: Row, make: Callable[[int], nn.Module], in_channels: int, out_channels: int
) -> nn.Module:
    """The module alone, or a Sequential of the row's scaled number of them."""
    number = description.depth(row.number)
    if number == 1:
        return make(in_channels)
    return nn.Sequential(*(make(in_channels if i == 0 else out_channels) for i in range(number)))


def parameter_count(network: nn.Module) -> int:
    """Number of trainable and frozen parameters (buffers not counted)."""
    return sum(parameter.numel() for parameter in network.parameters())


def unmatched(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor of ``own`` that ``state`` has not, or of another shape."""
    return [
        f"{name}: shape {tuple(state[name].shape)} there, {tuple(tensor.shape)} here"
        if name in state
        else f"{name}: not there"
        for name, tensor in own.items()
        if name not in state or state[name].shape != tensor.shape
    ]


def load_matching(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copy the tensors of ``state`` whose name and shape the network has.

    Returns:
        Names that were copied, and one line for each tensor of the network that was not, with the reason.
    """
    own = network.state_dict()
    matched = [name for name, tensor in own.items() if name in state and state[name].shape == tensor.shape]
    with torch.no_grad():
        for name in matched:
            own[name].copy_(state[name])
    return matched, unmatched(own, state)
