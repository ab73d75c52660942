"""Adam against torch.optim's, bit for bit."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from nsbench.kernels.adam import Adam


def groups(seed: int = 0) -> list[dict]:
    rng = torch.Generator().manual_seed(seed)
    tensors = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((7, 3), (5,), (2, 2))]
    double = nn.Parameter(torch.randn(4, generator=rng, dtype=torch.float64))
    return [
        {"params": tensors[:2], "lr": 1e-2},
        {"params": [tensors[2], double], "lr": 3e-3, "betas": (0.8, 0.99), "weight_decay": 0.1},
    ]


def parameters(of: list[dict]) -> list[Tensor]:
    return [x for group in of for x in group["params"]]


def give_gradients(of: list[dict], step: int) -> None:
    """The second parameter has none in even steps."""
    rng = torch.Generator().manual_seed(100 + step)
    for i, x in enumerate(parameters(of)):
        gradient = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        x.grad = None if i == 1 and step % 2 == 0 else gradient


def test_the_steps_of_torch_optim() -> None:
    ours, theirs = groups(), groups()
    adam, oracle = Adam(ours), torch.optim.Adam(theirs, fused=True)
    for step in range(6):
        if step == 3:
            adam.param_groups[0]["lr"] = oracle.param_groups[0]["lr"] = 1e-3
        give_gradients(ours, step)
        give_gradients(theirs, step)
        adam.step()
        oracle.step()
        assert all(map(torch.equal, parameters(ours), parameters(theirs)))
    adam.zero_grad()
    assert all(x.grad is None for x in parameters(ours))


def test_an_option_that_it_has_not() -> None:
    with pytest.raises(ValueError, match="not 'amsgrad'"):
        Adam([{"params": [], "amsgrad": True}])


def test_a_state_that_is_read_again_goes_on_alike() -> None:
    one, other = groups(), groups(seed=1)
    adam, read = Adam(one), Adam(other)
    give_gradients(one, 0)  # one parameter has no state yet
    adam.step()
    adam.param_groups[1]["lr"] = 7e-4
    read.load_state_dict(adam.state_dict())
    assert [group["lr"] for group in read.param_groups] == [1e-2, 7e-4]
    with torch.no_grad():
        for x, y in zip(parameters(other), parameters(one)):
            x.copy_(y)
    for step in (2, 3):
        for of, optimiser in ((one, adam), (other, read)):
            give_gradients(of, step)
            optimiser.step()
    assert all(map(torch.equal, parameters(one), parameters(other)))


def test_a_run_does_not_load_torchs_compiler(tmp_path) -> None:
    """It takes a process two seconds, and every worker would pay them."""
    code = (
        "import sys, nsbench; nsbench.run('kbgan', 'transe', 'planted:small', protocol='quick', runs=sys.argv[1], "
        "options={'protocol.steps': 2, 'sampler.pretrain_epochs': 1}); print('torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert said.stdout == "False\n", said.stderr
