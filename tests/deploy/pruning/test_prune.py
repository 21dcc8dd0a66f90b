"""Pruning meets its target, keeps outputs, remembers nothing, and can be repeated on a fresh network."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import students
import teachers
from deploy.pruning.cost import count
from deploy.pruning.options import PruneOptions
from deploy.pruning.plan import Plan, apply_plan
from deploy.pruning.prune import prune, recalibrate
from edgemt.contract import Output

DEEPER = {"mobilenetv3_large", "mobilenetv4_medium", "efficientnet_lite1", "efficientnet_lite2", "efficientnet_b0"}
STUDENTS = [  # those of the same kinds of block, only more of them, are in the slow suite; tests/students traces all
    pytest.param(name, marks=pytest.mark.slow) if name in DEEPER else name for name in students.names()
]
EXAMPLE = torch.zeros(1, 3, 64, 64)


def student(name: str = "test_efficientnet", **options) -> nn.Module:
    torch.manual_seed(0)
    return students.build(name, channels=3, classes=3, **options)


def learn(network: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    target = (images[:, 0] > 0).long()
    F.cross_entropy(network.eval()(images).logits, target).backward()


class Small(nn.Module):
    """A strided encoder, a transposed decoder, grouped and depthwise layers, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.head = nn.Conv2d(64, 3, 1)
        self.sdf = nn.Conv2d(64, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.up(F.relu(self.depthwise(self.down(x))))
        y = F.relu(self.grouped(torch.cat((x, y), 1)))
        return Output(self.head(y), sdf=torch.tanh(self.sdf(y)))


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


@pytest.mark.parametrize("name", STUDENTS)
def test_the_target_is_met_within_three_points_and_channels_stay_round(name):
    network = student(name)
    plan = prune(network, example=EXAMPLE, options=PruneOptions(share=0.45, steps=2), gradients=learn)
    assert 1 - plan.macs[1] / plan.macs[0] == pytest.approx(0.45, abs=0.03)
    assert (plan.params[1], plan.macs[1]) == count(network, EXAMPLE)
    assert network.eval()(EXAMPLE).logits.shape == (1, 3, 64, 64)
    before = dict(student(name).named_modules())
    for module_name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.out_channels != before[module_name].out_channels:
            assert module.out_channels % 8 == 0, module_name
            assert module.out_channels >= before[module_name].out_channels * 0.25, module_name


@pytest.mark.parametrize("name", STUDENTS)
def test_a_fresh_network_with_plan_and_weights_gives_the_same_bits(name, tmp_path):
    network = student(name)
    plan = prune(network, example=EXAMPLE, options=PruneOptions(importance="magnitude"))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(99)
    fresh = students.build(name, channels=3, classes=3)
    apply_plan(fresh, Plan.from_dict(json.loads(json.dumps(plan.to_dict()))))
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    images = torch.randn(2, 3, 96, 64)
    assert torch.equal(network.eval()(images).logits, fresh.eval()(images).logits)
    assert count(fresh, EXAMPLE) == count(network, EXAMPLE)
    assert fresh.train()(images).logits.requires_grad


def test_two_prunings_in_one_process_do_not_know_of_each_other():
    options = PruneOptions(share=0.4)
    first = prune(student(), example=EXAMPLE, options=options, gradients=learn)
    prune(student("mobilenetv3_small"), example=EXAMPLE, options=PruneOptions(share=0.6), gradients=learn)
    assert prune(student(), example=EXAMPLE, options=options, gradients=learn) == first


def test_a_pruned_network_can_be_pruned_again():
    network = student("mobilenetv4_small")
    prune(network, example=EXAMPLE, options=PruneOptions(share=0.3, importance="magnitude"))
    plan = prune(network, example=EXAMPLE, options=PruneOptions(share=0.2, importance="magnitude"))
    assert 1 - plan.macs[1] / plan.macs[0] == pytest.approx(0.2, abs=0.03)


def test_outputs_inputs_and_grouped_layers_keep_their_channels():
    network = small()
    example = torch.zeros(1, 1, 32, 32)
    plan = prune(network, example=example, options=PruneOptions(share=0.3, importance="magnitude"))
    output = network(example)
    assert output.logits.shape == (1, 3, 32, 32) and output.sdf.shape == (1, 2, 32, 32)
    assert network.stem[0].in_channels == 1
    assert (network.grouped.in_channels, network.grouped.out_channels) == (64, 64)
    assert network.down.out_channels < 64 and network.depthwise.groups == network.down.out_channels
    assert torch.equal(apply_plan(small(), plan)(example).logits[:, :, 0, 0].isfinite(), torch.ones(1, 3) > 0)


def test_heads_beyond_the_class_head_keep_their_channels():
    network = student(heads=("sdf", "features"))
    before = network(EXAMPLE.expand(2, -1, -1, -1))
    prune(network, example=EXAMPLE, options=PruneOptions(share=0.4), gradients=learn)
    after = network(EXAMPLE.expand(2, -1, -1, -1))
    assert after.sdf.shape == before.sdf.shape and after.features.shape == before.features.shape


def test_taylor_keeps_the_channels_that_the_loss_needs():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Conv2d(1, 32, 1), nn.Conv2d(32, 2, 1)

        def forward(self, x):
            return Output(self.head(self.inner(x)))

    network = Wide()
    with torch.no_grad():
        network.inner.weight.copy_(torch.linspace(1, 2, 32).view(-1, 1, 1, 1))
        network.head.weight.fill_(1e-6)
        network.head.weight[:, :8] = 1.0  # the smallest filters are the ones that are heard

    def heard(net):
        net(torch.ones(1, 1, 8, 8)).logits[:, 0].mean().backward()

    prune(network, example=torch.zeros(1, 1, 8, 8), options=PruneOptions(share=0.7, steps=1), gradients=heard)
    assert network.inner.out_channels == 8
    assert torch.equal(network.head.weight.flatten(), torch.ones(16))


def test_mode_gradients_and_frozen_flags_are_left_as_they_were():
    network = student()
    network.train()
    network.head.weight.requires_grad_(False)
    network.head.eval()
    prune(network, example=EXAMPLE, options=PruneOptions(), gradients=learn)
    assert network.training and not network.head.training
    assert not network.head.weight.requires_grad and network.head.bias.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_gradients_are_taken_in_evaluation_mode():
    seen = []

    def look(network):
        seen.append(network.training)
        learn(network)

    prune(student().train(), example=EXAMPLE, options=PruneOptions(steps=2), gradients=look)
    assert seen == [False, False]


def test_pruning_draws_no_global_random_numbers():
    network = student()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    prune(network, example=EXAMPLE, options=PruneOptions(), gradients=learn)
    assert torch.equal(torch.rand(3), expected)


def test_a_target_out_of_reach_is_refused_before_anything_is_cut():
    network = student()
    state = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=r"prune\.share = 0\.9: at most 0\.\d+ of the macs.*max_ratio"):
        prune(
            network,
            example=EXAMPLE,
            options=PruneOptions(share=0.9, max_ratio=0.3, importance="magnitude"),
        )
    assert all(torch.equal(a, b) for a, b in zip(state.values(), network.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 1.0),
        ("share", -0.1),
        ("target", "joules"),
        ("runtime", "abacus"),
        ("precision", "int4"),
        ("importance", "luck"),
        ("round_to", -1),
        ("rounds", 0),
        ("steps", 0),
        ("max_ratio", 1.0),
    ],
)
def test_a_bad_option_is_named(field, value):
    with pytest.raises(ValueError, match=rf"prune\.{field} = "):
        PruneOptions(**{field: value})


def test_taylor_without_gradients_or_with_none_left_behind_is_named():
    with pytest.raises(ValueError, match="needs gradients"):
        prune(small(), example=torch.zeros(1, 1, 32, 32), options=PruneOptions())
    with pytest.raises(ValueError, match="must call backward"):
        prune(small(), example=torch.zeros(1, 1, 32, 32), options=PruneOptions(), gradients=lambda net: None)


def test_pruning_nothing_warns_and_changes_nothing():
    with pytest.warns(UserWarning, match=r"prune\.share = 0"):
        plan = prune(small(), example=torch.zeros(1, 1, 32, 32), options=PruneOptions(share=0, importance="magnitude"))
    assert not plan.tensors and plan.macs[0] == plan.macs[1]


def test_a_plan_for_another_network_is_refused_and_changes_nothing():
    plan = prune(small(), example=torch.zeros(1, 1, 32, 32), options=PruneOptions(share=0.3, importance="magnitude"))
    other = student()
    shapes = [p.shape for p in other.parameters()]
    with pytest.raises(ValueError, match="does not fit this network at"):
        apply_plan(other, plan)
    assert shapes == [p.shape for p in other.parameters()]


def test_a_plan_that_is_none_is_named():
    with pytest.raises(ValueError, match="not a readable pruning plan"):
        Plan.from_dict({"sizes": {}, "tensors": []})


def test_counting_agrees_with_pencil_and_paper():
    network = small()
    params, macs = count(network, torch.zeros(3, 1, 8, 8))
    full, half = 64, 16  # positions
    expected = full * 9 * 32 + half * 9 * 32 * 64 + half * 9 * 64 + half * 4 * 64 * 32
    expected += full * 9 * 64 * 64 // 4 + full * 64 * 3 + full * 64 * 2
    assert macs == expected
    assert params == sum(p.numel() for p in network.parameters())


def test_batch_statistics_are_those_of_the_batches_afterwards():
    network = small().eval()
    images = [3 * torch.randn(4, 1, 16, 16) + 1 for _ in range(4)]
    assert recalibrate(network, iter(images)) == 4
    norm = network.stem[1]
    with torch.no_grad():
        seen = network.stem[0](torch.cat(images))
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-4)
    assert not network.training and not norm.training and norm.momentum == 0.1


def test_recalibrating_from_no_batches_is_named():
    network = small()
    network.stem[1].running_mean.fill_(2)
    with pytest.raises(ValueError, match="no batch"):
        recalibrate(network, [])
    assert (network.stem[1].running_mean == 2).all()


def test_the_share_may_be_of_the_parameters():
    network = student("mobilenetv4_small")
    plan = prune(network, example=EXAMPLE, options=PruneOptions(share=0.5, target="params", importance="magnitude"))
    assert 1 - plan.params[1] / plan.params[0] == pytest.approx(0.5, abs=0.03)


def test_a_plan_is_repeated_on_a_network_with_other_weights_by_its_own_importance(tmp_path):
    options = PruneOptions(importance="magnitude", share=0.4)
    plan = prune(student(), example=EXAMPLE, options=options)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    torch.manual_seed(7)
    other = students.build("test_efficientnet", channels=3, classes=3)
    original = {name: p.clone() for name, p in other.named_parameters()}
    again = prune(other, example=EXAMPLE, options=replace(options, plan=str(tmp_path / "plan.json")))
    assert (again.tensors, again.sizes) == (plan.tensors, plan.sizes)
    name = next(n for n, shape in plan.tensors.items() if n.endswith("weight") and len(shape) == 1)
    stored, before = dict(other.named_parameters())[name], original[name]
    assert set(stored.tolist()) <= set(before.tolist())


def test_a_plan_of_another_network_is_not_repeated(tmp_path):
    options = PruneOptions(importance="magnitude", share=0.3)
    plan = prune(small(), example=torch.zeros(1, 1, 32, 32), options=options)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    with pytest.raises(ValueError, match="does not fit this network at"):
        prune(student(), example=EXAMPLE, options=replace(options, plan=str(tmp_path / "plan.json")))
    with pytest.raises(ValueError, match=r"nowhere.json: no pruning plan"):
        prune(student(), example=EXAMPLE, options=replace(options, plan=str(tmp_path / "nowhere.json")))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(
    ("name", "side", "choices"),
    [
        ("unet", (32, 32), {"widths": (8, 16, 32), "dropout": (0.0, 0.0, 0.0)}),
        ("unet3d", (16, 16, 16), {"widths": (8, 16, 32), "dropout": (0.0, 0.0, 0.0)}),
        ("vnet", (32, 16, 16), {"filters": 8}),
        ("vnet", (32, 32), {"filters": 8, "dims": 2}),
    ],
)
def test_a_teacher_is_pruned_and_its_plan_builds_it_again(name, side, choices, norm):
    def build():
        return teachers.build(name, channels=1, classes=3, norm=norm, **choices).eval()

    network, example = build(), torch.rand(1, 1, *side)
    plan = prune(network, example=example, options=PruneOptions(share=0.4, importance="magnitude", round_to=4))
    assert 1 - plan.macs[1] / plan.macs[0] == pytest.approx(0.4, abs=0.06)
    fresh = apply_plan(build(), Plan.from_dict(json.loads(json.dumps(plan.to_dict()))))
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(example).logits, fresh.eval()(example).logits)


def test_group_norm_that_ties_all_channels_is_refused_in_one_line():
    network = teachers.build("vnet", channels=1, classes=3, norm="group", filters=8, dims=2)
    with pytest.raises(ValueError, match=r"at most 0\.00 of the macs.*"):
        prune(network, example=torch.zeros(1, 1, 32, 32), options=PruneOptions(share=0.3, importance="magnitude"))
