"""Networks: shapes, determinism, causality, arguments, and that several stack into one with `torch.func.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from models.nets import MLP, ConvNet, ResNet, Transformer, causal_attention

FLAT, IMAGES, CODES = (5, 64), (5, 1, 8, 8), (5, 12)

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(), FLAT),
    "mlp-batch": (lambda: MLP(norm="batch", hidden=[16]), FLAT),
    "mlp-ghost": (lambda: MLP(norm="batch", hidden=[16], ghost_batch=2), FLAT),
    "mlp-layer": (lambda: MLP(norm="layer"), FLAT),
    "mlp-linear": (lambda: MLP(hidden=()), FLAT),
    "conv-batch": (lambda: ConvNet(width=4), IMAGES),
    "conv-ghost": (lambda: ConvNet(width=4, ghost_batch=2), IMAGES),
    "conv-group": (lambda: ConvNet(width=4, norm="group"), IMAGES),
    "conv-none": (lambda: ConvNet(width=4, norm="none"), IMAGES),
    "resnet-batch": (lambda: ResNet(width=4), IMAGES),
    "resnet-ghost": (lambda: ResNet(width=4, ghost_batch=3), IMAGES),
    "resnet-group": (lambda: ResNet(width=4, norm="group", blocks=[2, 1]), IMAGES),
    "transformer": (lambda: Transformer(11, context=16, width=8, heads=2), CODES),
    "transformer-tied": (lambda: Transformer(11, context=16, width=8, heads=2, tied=True), CODES),
}


def inputs_of(shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if shape == CODES:
        return torch.randint(11, shape, generator=generator)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def built(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make().double()


def single_calls(nets: list[nn.Module], inputs: Tensor) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Outputs of the members one by one, and each one's buffers afterwards."""
    alone = copy.deepcopy(nets)
    outputs = [net(inputs) for net in alone]
    return outputs, [dict(net.named_buffers()) for net in alone]


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CASES)
def test_three_stacked_members_give_what_each_gives_alone(name: str, train: bool) -> None:
    make, shape = CASES[name]
    inputs = inputs_of(shape)
    nets = [built(make, seed=seed).train(train) for seed in range(3)]
    outputs, buffers_alone = single_calls(nets, inputs)
    parameters, buffers = stack_module_state(nets)
    shell = nets[0]

    def call(member: dict[str, Tensor], state: dict[str, Tensor], batch: Tensor) -> Tensor:
        result: Tensor = functional_call(shell, (member, state), (batch,))
        return result

    stacked = vmap(call, in_dims=(0, 0, None))(parameters, buffers, inputs)
    for index, output in enumerate(outputs):
        assert torch.allclose(stacked[index], output, rtol=0, atol=1e-10)
        for key, value in buffers_alone[index].items():
            assert torch.allclose(buffers[key][index], value, rtol=0, atol=1e-10)
    assert len(buffers) == len(buffers_alone[0])


@pytest.mark.parametrize("name", CASES)
def test_stacked_gradients_are_those_of_each_member_alone(name: str) -> None:
    make, shape = CASES[name]
    inputs = inputs_of(shape)
    nets = [built(make, seed=seed) for seed in range(3)]
    parameters, buffers = stack_module_state(copy.deepcopy(nets))
    shell = nets[0]

    def loss(member: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(shell, (member, state), (inputs,)).square().mean()
        return result

    gradients = vmap(torch.func.grad(loss))(parameters, buffers)
    for index, net in enumerate(nets):
        net(inputs).square().mean().backward()
        for key, parameter in net.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(gradients[key][index], parameter.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_one_seed_gives_one_network(name: str) -> None:
    make, shape = CASES[name]
    inputs = inputs_of(shape)
    assert torch.equal(built(make, seed=1)(inputs), built(make, seed=1)(inputs))
    assert not torch.equal(built(make, seed=1)(inputs), built(make, seed=2)(inputs))


@pytest.mark.parametrize(
    ("net", "shape", "logits"),
    [
        (MLP(features=12, classes=3), (4, 3, 2, 2), (4, 3)),
        (ConvNet(channels=3, width=6, classes=7), (4, 3, 4, 4), (4, 7)),
        (ConvNet(norm="group"), (4, 1, 28, 28), (4, 10)),
        (ResNet(channels=3, width=5, classes=7, norm="group"), (4, 3, 32, 32), (4, 7)),
        (ResNet(blocks=(1, 2, 1)), (4, 1, 9, 11), (4, 10)),
    ],
    ids=["mlp", "conv-rgb", "conv-group", "resnet-rgb", "resnet-odd-sizes"],
)
def test_logits_have_one_row_an_example(net: nn.Module, shape: tuple[int, ...], logits: tuple[int, ...]) -> None:
    assert net(torch.randn(shape)).shape == logits


def test_resnet_20_has_the_published_number_of_parameters() -> None:
    net = ResNet(channels=3, width=16, classes=10, blocks=(3, 3, 3))
    # He et al. 2016, table 6: 0.27M, with shortcuts that have no weights; ours are 1x1 convolutions, 2,560 more.
    assert sum(parameter.numel() for parameter in net.parameters()) == 269_722 + 2_560


def test_a_token_sees_no_later_one() -> None:
    net = Transformer(11, context=16, width=8, heads=2).double()
    codes = inputs_of(CODES)
    changed = codes.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 11
    before, after = net(codes), net(changed)
    assert torch.allclose(before[:, :7], after[:, :7], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_attention_on_a_cpu_is_the_attention_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 6, dtype=torch.float64, generator=generator)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.allclose(causal_attention(query, key, value), expected, rtol=0, atol=1e-12)


@pytest.mark.gpu
def test_attention_on_a_gpu_stacks_too() -> None:
    query, key, value = torch.randn(3, 3, 2, 4, 9, 8, device="cuda")
    stacked = vmap(causal_attention)(query, key, value)
    for index in range(3):
        alone = causal_attention(query[index].cpu(), key[index].cpu(), value[index].cpu())
        assert torch.allclose(stacked[index].cpu(), alone, atol=1e-3)


def test_the_transformer_tells_places_apart() -> None:
    net = Transformer(11, context=16, width=8, heads=2)
    logits = net(torch.full((1, 5), 3))
    assert not torch.allclose(logits[0, 0], logits[0, 4])


def test_a_fresh_transformer_knows_nothing() -> None:
    torch.manual_seed(0)
    for tied in (False, True):
        logits = Transformer(65, tied=tied)(torch.randint(65, (8, 64)))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(65, (512,)))
        assert float(loss.detach()) == pytest.approx(4.174, abs=0.3)  # ln 65


def test_tied_weights_are_stored_once() -> None:
    plain, tied = (Transformer(11, width=8, heads=2, tied=tied) for tied in (False, True))
    sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (plain, tied)]
    assert sizes[0] - sizes[1] == 11 * 8


@pytest.mark.parametrize("make", [lambda: MLP(dropout=0.5), lambda: Transformer(11, dropout=0.5)], ids=["mlp", "tf"])
def test_dropout_acts_in_training_only(make: Callable[[], nn.Module]) -> None:
    net = make()
    inputs = torch.randn(4, 64) if isinstance(net, MLP) else torch.randint(11, (4, 64))
    assert not torch.equal(net(inputs), net(inputs))
    net.eval()
    assert torch.equal(net(inputs), net(inputs))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MLP(features=0), "`features` must be a whole number of at least 1, but got 0"),
        (lambda: MLP(hidden=[64, -1]), "`hidden` must be a whole number of at least 1, but got -1"),
        (lambda: MLP(dropout=1.0), r"`dropout` must be a share in \[0, 1\), but got 1.0"),
        (lambda: MLP(norm="group"), "`norm` must be one of none, batch, layer, but got 'group'"),  # type: ignore[arg-type]
        (lambda: ConvNet(width=0), "`width` must be a whole number of at least 1, but got 0"),
        (lambda: ConvNet(norm="layer"), "`norm` must be one of batch, group, none, but got 'layer'"),  # type: ignore[arg-type]
        (lambda: ResNet(norm="none"), "`norm` must be one of batch, group, but got 'none'"),  # type: ignore[arg-type]
        (lambda: ConvNet(ghost_batch=1), "`ghost_batch` must be a whole number of at least 2, but got 1"),
        (lambda: ResNet(ghost_batch=True), "`ghost_batch` must be a whole number of at least 2, but got True"),
        (
            lambda: ConvNet(norm="group", ghost_batch=64),
            "`ghost_batch` must be left out with `norm: group`, which has no statistics of a batch, but got 64",
        ),
        (lambda: MLP(ghost_batch=64), "`ghost_batch` must be left out with `norm: none`"),
        (lambda: ResNet(blocks=[]), "`blocks` must name the blocks of at least one stage, but it is empty"),
        (lambda: ResNet(blocks=[1, 0]), "`blocks` must be a whole number of at least 1, but got 0"),
        (lambda: Transformer(65, width=64, heads=5), "`width` must be a multiple of `heads`, but got 64 and 5"),
        (lambda: Transformer(0), "`vocabulary` must be a whole number of at least 1, but got 0"),
        (lambda: Transformer(65, dropout=-0.5), r"`dropout` must be a share in \[0, 1\), but got -0.5"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`context` must be at least 12 \(the tokens of an input\), but got 8"):
        Transformer(11, context=8, width=8, heads=2)(inputs_of(CODES))
