"""PyTorch models that published weights belong to, written from their definitions.

An oracle has the parameter names and shapes of the files its project released, takes images
[N, 3, H, W] and computes in evaluation mode what that project's model computes. The projects:
facebookresearch/ConvNeXt (https://arxiv.org/abs/2201.03545), facebookresearch/ConvNeXt-V2
(https://arxiv.org/abs/2301.00808). As constructed, gamma is 1e-6 and GRN is off, so a wrong block
would not show: `randomise` first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

LAYER_SCALES = ("gamma", "layer_scale", "layer_scale_parameter")  # as the projects name them


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global Response Normalization (V2 paper) of [N, H, W, C]."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gx = x.norm(p=2, dim=(1, 2), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * nx) + self.beta + x


class Block(nn.Module):
    """Residual block on [N, C, H, W]: V1 with layer scale, V2 with GRN, or neither."""

    def __init__(self, dim: int, *, layer_scale: bool, use_grn: bool):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if use_grn else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6)) if layer_scale else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = F.gelu(self.pwconv1(self.norm(y)), approximate="none")
        if self.grn is not None:
            y = self.grn(y)
        y = self.pwconv2(y)
        if self.gamma is not None:
            y = self.gamma * y
        return x + y.permute(0, 3, 1, 2)


class OfficialConvNeXt(nn.Module):
    """facebookresearch/ConvNeXt; with `use_grn`, facebookresearch/ConvNeXt-V2."""

    def __init__(
        self, depths: Sequence[int], dims: Sequence[int], num_classes: int, use_grn: bool = False
    ):
        super().__init__()
        conv = nn.Conv2d(3, dims[0], kernel_size=4, stride=4)
        norm = ChannelsFirstLayerNorm(dims[0], eps=1e-6)
        self.downsample_layers = nn.ModuleList([nn.Sequential(conv, norm)])
        self.stages = nn.ModuleList()
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            if i > 0:
                norm = ChannelsFirstLayerNorm(dims[i - 1], eps=1e-6)
                conv = nn.Conv2d(dims[i - 1], dim, kernel_size=2, stride=2)
                self.downsample_layers.append(nn.Sequential(norm, conv))
            blocks = [Block(dim, layer_scale=not use_grn, use_grn=use_grn) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def features(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Outputs of the stem and of each stage, [N, C, H, W]; the pooled, normed vector [N, C]."""
        x = self.downsample_layers[0](x)
        maps = [x]
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.downsample_layers[i](x))
            maps.append(x)
        return maps, self.norm(x.mean(dim=(2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x)[1])


class IsotropicConvNeXt(nn.Module):
    """Isotropic ConvNeXt (paper, Section 3.3): a 16x16 stem without norm, blocks of one width."""

    def __init__(self, depth: int, dim: int, num_classes: int, layer_scale: bool):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, kernel_size=16, stride=16)
        blocks = [Block(dim, layer_scale=layer_scale, use_grn=False) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        return self.head(self.norm(x.mean(dim=(2, 3))))


def fcmae_checkpoint(model: OfficialConvNeXt) -> dict[str, dict[str, torch.Tensor]]:
    """What FCMAE pre-training of this V2 model's encoder would have saved: {"model": state}.

    The inverse of `remap_checkpoint_keys` of facebookresearch/ConvNeXt-V2: names and layouts of the
    sparse (MinkowskiEngine) encoder, and some of the decoder, for a loader to leave out.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        path, leaf = name.rsplit(".", 1)
        layer = model.get_submodule(path)
        if path in ("norm", "head"):
            continue  # they come with fine-tuning
        if path.startswith("downsample_layers.0."):
            pass  # the stem is dense: the mask comes after it
        elif isinstance(layer, nn.Conv2d) and leaf == "weight":
            leaf, tensor = "kernel", sparse_kernel(tensor)
        elif isinstance(layer, nn.Conv2d | GRN):
            tensor = tensor.reshape(1, -1)
        elif isinstance(layer, nn.LayerNorm | nn.Linear):
            leaf = ("ln." if isinstance(layer, nn.LayerNorm) else "linear.") + leaf
        state[f"encoder.{path}.{leaf}"] = tensor.clone()

    width, patch = 16, 32 * 32 * 3  # of the decoder (512 as published); values in a patch
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "mask_token": (1, width, 1, 1),
        "proj.weight": (width, model.head.in_features, 1, 1),
        "proj.bias": (width,),
        "decoder.0.dwconv.weight": (width, 1, 7, 7),
        "pred.weight": (patch, width, 1, 1),
        "pred.bias": (patch,),
    }
    decoder = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {"model": state | decoder}


def sparse_kernel(weight: torch.Tensor) -> torch.Tensor:
    """Conv2d weight [O, I, k, k] as [k*k, I, O], depthwise [C, 1, k, k] as [k*k, C]; x before y."""
    kernel = weight.transpose(2, 3).flatten(2).permute(2, 1, 0).contiguous()
    return kernel[:, 0] if weight.shape[1] == 1 else kernel


def randomise(model: nn.Module, seed: int) -> None:
    """Fills every parameter in place so that each one matters and activations stay near 1.

    Goes by name and rank, so it serves the models of timm, transformers and torchvision too.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        *path, leaf = name.split(".")
        if "grn" in path:
            mean, std = 0.0, 0.5
        elif leaf in LAYER_SCALES:
            mean, std = 0.5, 0.3
        elif leaf == "bias":
            mean, std = 0.0, 0.2
        elif parameter.ndim > 1:  # of a convolution or a linear layer: [out, in, ...]
            mean, std = 0.0, parameter[0].numel() ** -0.5
        else:  # of a norm
            mean, std = 1.0, 0.3
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(mean + std * noise)
