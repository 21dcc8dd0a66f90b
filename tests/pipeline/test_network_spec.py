"""The description of a network that a recipe's options give."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgemt.artefacts.network_folder import build_network
from edgemt.methods import METHODS
from edgemt.pipeline.network_spec import network_spec, spec_for_fingerprint
from edgemt.pipeline.recipe import TeacherOptions

DATA: Any = SimpleNamespace(example=torch.zeros(1, 3, 64, 64), classes=("background", "polyp"), overlapping=False)
TEACHER = TeacherOptions(network="students/test_efficientnet")


def test_teacher_resolution_reaches_the_network() -> None:
    spec = network_spec(replace(TEACHER, resolution=0.5), DATA, METHODS["supervised"])
    network = build_network(spec)
    assert network.resolution == 0.5
    assert network.eval()(DATA.example).logits.shape == (1, 2, 64, 64)
    assert "resolution" not in network_spec(TEACHER, DATA, METHODS["supervised"])["options"]


def test_teacher_resolution_is_part_of_the_key_where_it_is_not_the_whole() -> None:
    assert "resolution" not in spec_for_fingerprint(TEACHER)
    assert spec_for_fingerprint(replace(TEACHER, resolution=0.5))["resolution"] == 0.5


def test_teacher_resolution_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher.resolution = 0.5: only students/ networks have one; unet needs 1"):
        network_spec(TeacherOptions(network="unet", resolution=0.5), DATA, METHODS["supervised"])
