"""What a training changes in its thread is put back, and what it sets for itself holds."""

from __future__ import annotations

import torch

from models.process import subnormals_as_zero

TINY = torch.tensor([1e-40, -1e-40], dtype=torch.float32)


def test_numbers_too_small_for_full_precision_are_zero_for_as_long_as_a_training_lasts() -> None:
    supported = torch.set_flush_denormal(False)
    assert (TINY * 1.0).abs().min() > 0
    with subnormals_as_zero():
        assert not supported or (TINY * 1.0).abs().max() == 0
        with subnormals_as_zero():
            pass
        assert not supported or (TINY * 1.0).abs().max() == 0, "it is put back to what it was"
    assert (TINY * 1.0).abs().min() > 0


def test_the_momentum_of_a_weight_without_gradient_comes_to_zero() -> None:
    supported = torch.set_flush_denormal(False)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.5)
    with subnormals_as_zero():
        for step in range(200):
            weight.grad = torch.full_like(weight, 1.0 if step == 0 else 0.0)
            optimizer.step()
    left = optimizer.state[weight]["momentum_buffer"]
    assert not supported or left.tolist() == [0.0] * 3
