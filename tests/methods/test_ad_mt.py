"""AD-MT: conflicts of its teachers, CutMix, divergence of the averages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from method_samples import EchoNetwork, probs_of_voxel
from torch import nn

from edgemt.contract import Output
from edgemt.learning.losses import cross_entropy, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.mixing import cutmix
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.methods import METHODS
from edgemt.methods.ad_mt import ADMT
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_ad_mt_conflict_is_resolved_by_the_more_confident_student():
    method = ADMT(confidence=0.8)
    teachers_part = torch.stack([probs_of_voxel(0.7, 0.3), probs_of_voxel(0.3, 0.7)])
    target, weight = method.combine(teachers_part, probs_of_voxel(0.1, 0.9))
    assert int(target.argmax(1)) == 1 and float(weight) == 1.0
    agreeing = torch.stack([probs_of_voxel(0.7, 0.3), probs_of_voxel(0.6, 0.4)])
    target, weight = method.combine(agreeing, probs_of_voxel(0.1, 0.9))
    assert int(target.argmax(1)) == 0 and float(weight) == 0.0


def parting_stage(method) -> tuple[TinyTrainer, object]:
    """Teachers that say of an image the opposite of each other, faintly; the student says surely what it sees."""

    class Faint(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, x, disturb=None):
            return Output(self.sign * 0.05 * x)

    stage = TinyTrainer(method, classes=2, total=1, index=1)
    for name, net in (("student", EchoNetwork()), ("teacher", Faint(1.0)), ("tutor", Faint(-1.0))):
        stage.nets[name] = net
    b = random_batch(classes=2, strong=False)
    sure = torch.sign(b.image[:, :1]) * 6
    return stage, replace(b, image=torch.cat([sure, -sure], 1))


@dataclass(frozen=True)
class Uncut(ADMT):
    """AD-MT as released: the target is cut by CutMix, the student's own word that competes with it is not."""

    def losses(self, nets, batch, step):
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        teacher_probs = torch.stack([predict_probabilities(nets[name], weak) for name in ("teacher", "tutor")])
        box = self.box.sample(weak, step.generator)
        logits = nets.student(torch.cat([batch.image, cutmix(box, weak)])).logits
        own = probabilities(logits[count : count + rows])
        target, weight = self.combine(torch.stack([cutmix(box, look) for look in teacher_probs]), own)
        return LossTerms(consistency=2.0 * cross_entropy(logits[count + rows :], target, weight=weight))


def test_ad_mt_cuts_the_student_prediction_with_the_image():
    stage, b = parting_stage(ADMT())
    _, paid = next(stage.optimiser_steps(b))
    assert float(paid["consistency"]) < 1e-3
    stage, b = parting_stage(Uncut())
    _, paid = next(stage.optimiser_steps(b))
    assert float(paid["consistency"]) > 1.0


def test_ad_mt_teachers_diverge():
    stage = TinyTrainer(METHODS["ad_mt"])
    for i in range(6):
        stage.step(random_batch(seed=i))
    mine, other = (stage.nets[name].head.weight for name in ("teacher", "tutor"))
    assert not torch.allclose(mine, other)
