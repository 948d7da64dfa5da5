"""The networks of this folder, as torch modules: only `train_digits.py` needs them."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def with_bn(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """Return `conv` directly followed by a BatchNorm2d: the pair that folding merges."""
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels)))


class Residual(nn.Module):
    """Conv-BN-ReLU-Conv-BN, plus the input, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = with_bn(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.second = with_bn(nn.Conv2d(channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the input's shape."""
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


class DigitsCnn(nn.Module):
    """A small classifier in which every BatchNorm directly follows a convolution or a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = with_bn(nn.Conv2d(1, 16, 3, padding=1, bias=False))
        self.depthwise = with_bn(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False))
        self.pointwise = with_bn(nn.Conv2d(16, 32, 1, bias=False))
        self.down = with_bn(nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=True))
        self.grouped = with_bn(nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False))
        self.residual = Residual(32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(32, 32)  # its bias makes the export a Gemm: without one it is a MatMul
        self.hidden_bn = nn.BatchNorm1d(32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (batch,10) of the images (batch,1,8,8)."""
        x = image
        for block in (self.stem, self.depthwise, self.pointwise, self.down, self.grouped):
            x = torch.relu(block(x))
        x = torch.flatten(self.pool(self.residual(x)), 1)
        x = torch.relu(self.hidden_bn(self.hidden(x)))
        logits: Tensor = self.classifier(x)
        return logits


class Dense(nn.Module):
    """Linear, with a bias so that the export is a Gemm, then BN and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch,outputs) for (batch,inputs)."""
        return torch.relu(self.bn(self.linear(x)))


class DigitsMlp(nn.Module):
    """A multilayer perceptron on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = Dense(64, 96)
        self.hidden2 = Dense(96, 64)
        self.hidden3 = Dense(64, 32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (batch,10) of the images (batch,1,8,8)."""
        x = torch.flatten(image, 1)
        logits: Tensor = self.classifier(self.hidden3(self.hidden2(self.hidden1(x))))
        return logits


class DoubleConv(nn.Module):
    """Conv-BN-ReLU twice, at one resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = with_bn(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.second = with_bn(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch,outputs,height,width)."""
        return torch.relu(self.second(torch.relu(self.first(x))))


class DigitsUnet(nn.Module):
    """A U-Net that removes noise, with transposed convolutions on its way up."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1 = DoubleConv(1, 12)
        self.encoder2 = DoubleConv(12, 16)
        self.bottom = DoubleConv(16, 24)
        self.up2 = with_bn(nn.ConvTranspose2d(24, 16, 2, stride=2, bias=False))
        self.decoder2 = with_bn(nn.Conv2d(32, 16, 3, padding=1, bias=False))
        self.up1 = with_bn(nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1, bias=True))
        self.decoder1 = with_bn(nn.Conv2d(24, 12, 3, padding=1, bias=False))
        self.head = nn.Conv2d(12, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the denoised images, of the shape (batch,1,8,8) of `image`; they may leave [0,1] a little."""
        fine = self.encoder1(image)
        coarse = self.encoder2(torch.max_pool2d(fine, 2))
        x = self.bottom(torch.max_pool2d(coarse, 2))
        x = torch.relu(self.up2(x))
        x = torch.relu(self.decoder2(torch.cat((x, coarse), 1)))
        x = torch.relu(self.up1(x))
        x = torch.relu(self.decoder1(torch.cat((x, fine), 1)))
        clean: Tensor = self.head(x)
        return clean


class PerStep(nn.Module):
    """One linear map without bias for all time steps, then BN over its features and ReLU.

    The weight is kept as (inputs,outputs), so that the export is a MatMul with a constant. An nn.Linear keeps its
    transpose and leaves a Transpose of the weight in the graph, which only the exporter's constant folding removes.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch,time,outputs) for (batch,time,inputs); BatchNorm1d wants the features on axis 1."""
        return torch.relu(self.bn((x @ self.weight).transpose(1, 2))).transpose(1, 2)


class DigitsSequence(nn.Module):
    """Reads an image as the sequence of its rows: 8 time steps of 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(8, 8) * 0.1)  # which row a step is: the mean has no order
        self.step1 = PerStep(8, 64)
        self.step2 = PerStep(64, 64)
        self.step3 = PerStep(64, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (batch,10) of the images (batch,1,8,8)."""
        x = image.squeeze(1) + self.position
        x = self.step3(self.step2(self.step1(x)))
        logits: Tensor = self.classifier(x.mean(1))
        return logits


class PreActivation(nn.Module):
    """BN-ReLU-Conv-BN-ReLU-Conv, plus a shortcut: the input itself, or a 1x1 Conv where the shape changes.

    The first BN has to stay: what is before it is an addition, or has the shortcut as another reader, and what is
    after it is a ReLU. The second one can be folded into the Conv before it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch,outputs,height/stride,width/stride)."""
        active = torch.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        inner: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return inner + skip


class DigitsPreact(nn.Module):
    """A pre-activation residual network: of its seven BatchNorms four have to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.block1 = PreActivation(16, 16)
        self.block2 = PreActivation(16, 24, stride=2)
        self.block3 = PreActivation(24, 24)
        self.last_bn = nn.BatchNorm2d(24)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (batch,10) of the images (batch,1,8,8)."""
        x = self.block3(self.block2(self.block1(self.stem(image))))
        x = torch.flatten(self.pool(torch.relu(self.last_bn(x))), 1)
        logits: Tensor = self.classifier(x)
        return logits
