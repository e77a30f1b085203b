"""FCMAE by sparse convolutions, as the official code has it, in PyTorch.

A sparse map is a list of coordinates with a row of features each; what is not in the list does not
exist. Parameters have the names and shapes of the official code's checkpoints (those of
MinkowskiEngine: a kernel is [positions, ...], the row of a position counting fastest). GRN is of an
image, or of the batch, as MinkowskiEngine's is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812

EPS = 1e-6
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sites:
    """Active positions of a batch of maps."""

    places: torch.Tensor  # int [M, 3]: image, row, column, in positions of this map
    features: torch.Tensor  # [M, C]
    shape: tuple[int, int, int]  # images, rows, columns

    def numbers(self) -> torch.Tensor:
        """int [images, rows, columns]: the number of the site there, -1 where there is none."""
        found = torch.full(self.shape, -1)
        found[tuple(self.places.T)] = torch.arange(len(self.places))
        return found


def part(state: State, prefix: str) -> State:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def active(maps: torch.Tensor) -> Sites:
    """The positions of [N, C, H, W] at which not everything is 0."""
    places = (maps.abs().sum(1) != 0).nonzero()
    image, row, column = places.T
    return Sites(places, maps[image, :, row, column], (len(maps), *maps.shape[2:]))


def offsets(side: int) -> Iterator[tuple[int, int]]:
    """Row and column of each position of a kernel, relative to the middle, or to the first one of
    a kernel without a middle."""
    first = -(side // 2) if side % 2 else 0
    for position in range(side * side):
        yield first + position % side, first + position // side


def neighbours(sites: Sites, places: torch.Tensor, row: int, column: int):
    """Which of the places have an active site so far away, and the number of that."""
    images, rows, columns = places.T
    rows, columns = rows + row, columns + column
    _, height, width = sites.shape
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = torch.full((len(places),), -1)
    inside = is_inside.nonzero()[:, 0]
    found[inside] = sites.numbers()[images[inside], rows[inside], columns[inside]]
    targets = (found >= 0).nonzero()[:, 0]
    return targets, found[targets]


def depthwise(sites: Sites, kernel: torch.Tensor, bias: torch.Tensor) -> Sites:
    total = torch.zeros_like(sites.features)
    for weights, (row, column) in zip(kernel, offsets(7), strict=True):
        targets, origins = neighbours(sites, sites.places, row, column)
        total = total.index_add(0, targets, sites.features[origins] * weights)
    return replace(sites, features=total + bias)


def downsample(sites: Sites, kernel: torch.Tensor, bias: torch.Tensor) -> Sites:
    images, height, width = sites.shape
    places = (sites.places // torch.tensor([1, 2, 2])).unique(dim=0)
    origin = places * torch.tensor([1, 2, 2])
    total = sites.features.new_zeros(len(places), kernel.shape[-1])
    for weights, (row, column) in zip(kernel, offsets(2), strict=True):
        targets, origins = neighbours(sites, origin, row, column)
        total = total.index_add(0, targets, sites.features[origins] @ weights)
    return Sites(places, total + bias, (images, height // 2, width // 2))


def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def grn(sites: Sites, gamma: torch.Tensor, beta: torch.Tensor, of_batch: bool) -> Sites:
    x, image = sites.features, sites.places[:, 0]
    groups = torch.zeros_like(image) if of_batch else image
    norms = torch.stack([x[groups == g].norm(dim=0) for g in range(int(groups.max()) + 1)])
    response = norms / (norms.mean(-1, keepdim=True) + EPS)
    return replace(sites, features=gamma * x * response[groups] + beta + x)


def block(sites: Sites, state: State, of_batch: bool) -> Sites:
    y = depthwise(sites, state["dwconv.kernel"], state["dwconv.bias"])
    x = normed(y.features, state["norm.ln.weight"], state["norm.ln.bias"])
    x = F.gelu(x @ state["pwconv1.linear.weight"].T + state["pwconv1.linear.bias"])
    y = grn(replace(y, features=x), state["grn.gamma"], state["grn.beta"], of_batch)
    branch = y.features @ state["pwconv2.linear.weight"].T + state["pwconv2.linear.bias"]
    return replace(sites, features=sites.features + branch)


def encoder(
    images: torch.Tensor,
    is_masked: torch.Tensor,
    state: State,
    depths: Sequence[int],
    of_batch: bool = False,
) -> torch.Tensor:
    """[N, C, h, w] of images [N, 3, H, W]; is_masked: bool [N, h, w]."""
    weight = state["downsample_layers.0.0.weight"]
    stem = F.conv2d(images, weight, state["downsample_layers.0.0.bias"], stride=weight.shape[-1])
    stem = normed(
        stem.permute(0, 2, 3, 1),
        state["downsample_layers.0.1.weight"],
        state["downsample_layers.0.1.bias"],
    ).permute(0, 3, 1, 2)
    scale = 2 ** (len(depths) - 1)
    mask = is_masked.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    sites = active(stem * ~mask[:, None])
    assert len(sites.places) == int((~mask).sum())
    for stage, depth in enumerate(depths):
        if stage:
            down = part(state, f"downsample_layers.{stage}.")
            x = normed(sites.features, down["0.ln.weight"], down["0.ln.bias"])
            sites = downsample(replace(sites, features=x), down["1.kernel"], down["1.bias"])
        for index in range(depth):
            sites = block(sites, part(state, f"stages.{stage}.{index}."), of_batch)
    maps = sites.features.new_zeros(*sites.shape, sites.features.shape[-1])
    maps[tuple(sites.places.T)] = sites.features
    return maps.permute(0, 3, 1, 2)


def dense_block(x: torch.Tensor, state: State) -> torch.Tensor:
    """The decoder's, of every position of [N, C, h, w]."""
    y = F.conv2d(x, state["dwconv.weight"], state["dwconv.bias"], padding=3, groups=x.shape[1])
    y = normed(y.permute(0, 2, 3, 1), state["norm.weight"], state["norm.bias"])
    y = F.gelu(y @ state["pwconv1.weight"].T + state["pwconv1.bias"])
    norms = y.norm(dim=(1, 2), keepdim=True)
    response = norms / (norms.mean(-1, keepdim=True) + EPS)
    y = state["grn.gamma"] * y * response + state["grn.beta"] + y
    return x + (y @ state["pwconv2.weight"].T + state["pwconv2.bias"]).permute(0, 3, 1, 2)


def patchify(images: torch.Tensor, side: int) -> torch.Tensor:
    """[N, L, side * side * C]: patches row by row, of each its pixels, channel fastest."""
    count, channels, height, width = images.shape
    x = images.reshape(count, channels, height // side, side, width // side, side)
    return torch.einsum("nchpwq->nhwpqc", x).reshape(count, -1, side * side * channels)


def forward(
    images: torch.Tensor,
    is_masked: torch.Tensor,
    state: State,
    depths: Sequence[int],
    *,
    of_batch: bool = False,
    norm_pix: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the prediction of every patch [N, L, values]."""
    x = encoder(images, is_masked, part(state, "encoder."), depths, of_batch)
    x = F.conv2d(x, state["proj.weight"], state["proj.bias"])
    mask = is_masked[:, None].to(x.dtype)
    x = dense_block(x * (1 - mask) + state["mask_token"] * mask, part(state, "decoder.0."))
    predicted = F.conv2d(x, state["pred.weight"], state["pred.bias"]).flatten(2).transpose(1, 2)
    target = patchify(images, images.shape[2] // is_masked.shape[1])
    if norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + EPS).sqrt()
    losses = (predicted - target).square().mean(-1)
    mask = is_masked.flatten(1)
    return losses[mask].mean(), predicted
