"""The kernels that a network calls, by the module that calls them."""

from __future__ import annotations

import copy
import subprocess
import sys

import torch
from torch import Tensor, nn

from cnnbench.geometry.kernels import kernels
from cnnbench.models import create_model
from cnnbench.models.foreign import with_first_output


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * 3 * 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x)).flatten(1))


def test_each_call_names_its_module() -> None:
    network = create_model("lenet", in_channels=1, num_classes=10, image_size=28)
    before = copy.deepcopy(network.state_dict())
    found = [(name, call["op"]) for name, call in kernels(network, (1, 28, 28))]
    assert [op for _, op in found].count("convolution") == 2
    modules = dict(network.named_modules())
    assert all(isinstance(modules[name], nn.Conv2d) for name, op in found if op == "convolution")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_network_of_the_users_own_as_training_adopts_it() -> None:
    # Its forward with auxiliary outputs runs the hooks after it, and none of those before.
    found = kernels(with_first_output(Own()), (1, 8, 8))
    assert [(name, call["op"]) for name, call in found] == [
        ("conv", "convolution"),
        ("pool", "max_pool2d_with_indices"),
    ]


def test_auxiliary_heads_count() -> None:
    sizes = {"in_channels": 1, "num_classes": 10, "image_size": 28}
    plain, with_heads = (
        kernels(create_model("googlenet", **sizes, args={"aux": aux}), (1, 28, 28))
        for aux in (False, True)
    )
    assert len(with_heads) > len(plain)


def test_kernels_as_cpus_run_them_are_found_without_sympy() -> None:
    """Importing it takes a second of every start."""
    code = (
        "import sys; sys.modules['sympy'] = None\n"
        "import torch\n"
        "from cnnbench.config.compose import Composer\n"
        "from cnnbench.device.precision import FP32\n"
        "from cnnbench.geometry.kernels import kernels\n"
        "from cnnbench.layers.cpu import use_cpu_kernels\n"
        "from cnnbench.models import create_model\n"
        "composer = Composer()\n"
        "for name in ('basic_cnn', 'lenet', 'googlenet', 'resnet18', 'mobilenet_v2'):\n"
        "    config = composer.compose({'model': name})\n"
        "    size, args = config.data.image_size, config.model.args\n"
        "    sizes = {'in_channels': 3, 'num_classes': 10, 'image_size': size}\n"
        "    with torch.device('meta'): model = create_model(name, **sizes, args=args)\n"
        "    use_cpu_kernels(model, FP32, channels_last=True, is_compiled=False,\n"
        "                    winograd=True)\n"
        "    kernels(model, (3, size, size))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
