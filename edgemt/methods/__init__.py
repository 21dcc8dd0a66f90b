"""Every method by name, as a value: `replace(METHODS["ua_mt"], ramp=Ramp(1.0))` is another one.

To add one: write a frozen dataclass beside these, add its line here; the contract suite tests it at once.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from inspect import cleandoc
from typing import Any

from edgemt.methods.adversarial import Adversarial, Discriminator
from edgemt.methods.ambiguity import Ambiguous, AmbiguousByPrototype, Mislabelled, MostDoubtful, Unstable
from edgemt.methods.consistency import FrequencyRegion, MultiScale, PatchShuffle, PatchSwap, ShadowAugmentation
from edgemt.methods.correction import LabelCorrection, NoiseRobust, SelfSimilarity
from edgemt.methods.cross_pseudo import CrossPseudo
from edgemt.methods.decoders import CrossConsistency, MutualDecoders, MutualThreeDecoders, PyramidConsistency
from edgemt.methods.distillation import Distillation
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.methods.method import Method, Terms
from edgemt.methods.multitask import Aggregation, MutualTasks, TripledUncertainty
from edgemt.methods.pasting import CopyPaste
from edgemt.methods.separation import SmoothSeparate
from edgemt.methods.several_students import Competitive, HybridDual, MultiStudent, Progressive, SharedTeacher
from edgemt.methods.several_teachers import AlternateDiverse, Auxiliary, DualTeacher, ResidualDriven, ThreeTeachers
from edgemt.methods.strong_views import CrossHead, CrossMatch, UncertaintyContrast, UniMatch
from edgemt.methods.supervised import EntropyMinimisation, Supervised
from edgemt.methods.tasks import DualTask, ShapeAdversarial
from edgemt.methods.uncertainty import DoubleUncertainty, HeadsAgree, StructureAware
from edgemt.methods.views import PiModel, TemporalEnsembling, VirtualAdversarial
from edgemt.names import unknown
from edgemt.perturb import Noise
from edgemt.ramps import Ramp
from edgemt.roles import Ema
from edgemt.targets import AdaptiveThreshold, AffineView, Confident, Soft, UncertaintyMasked

METHODS: dict[str, Method] = {
    "supervised": Supervised(),
    "entropy": EntropyMinimisation(),
    "mean_teacher": MeanTeacher(),
    "ua_mt": MeanTeacher(target=UncertaintyMasked()),
    "cutmix_mt": MeanTeacher(
        target=Confident(),
        distance="dice_ce",
        ramp=Ramp(top=1.0, length=0.2),
        ema=Ema(mode="eval"),
        strong=True,
        mix="cutmix",
    ),
    "soft_cutmix_mt": MeanTeacher(
        target=Soft(noise=Noise(std=0.0)),
        distance="ce",
        ramp=Ramp(top=1.0, length=0.5),
        ema=Ema(mode="eval"),
        strong=True,
        mix="cutmix",
    ),
    "cps": CrossPseudo(),
    "dan": Adversarial(),
    "distillation": Distillation(),
    "slice_distillation": Distillation(guide="bank", overlap=1.0),
    "bcp": CopyPaste(),
    "cct": CrossConsistency(),
    "dtc": DualTask(),
    "ict": MeanTeacher(target=Soft(noise=Noise(std=0.0)), mix="mixup"),
    "mc_net": MutualDecoders(),
    "mc_net_plus": MutualThreeDecoders(),
    "pi_model": PiModel(),
    "sassnet": ShapeAdversarial(),
    "ss_net": SmoothSeparate(),
    "temporal_ensembling": TemporalEnsembling(),
    "urpc": PyramidConsistency(),
    "vat": VirtualAdversarial(),
    "ad_mt": AlternateDiverse(),
    "auxiliary": Auxiliary(),
    "cds": Competitive(),
    "cmmt": CrossHead(),
    "cross_match": CrossMatch(),
    "ddl": MultiStudent(),
    "dsst": SharedTeacher(),
    "dual_teacher": DualTeacher(),
    "dycon": UncertaintyContrast(),
    "hybrid_mt": HybridDual(),
    "pmt": Progressive(),
    "rdmt": ResidualDriven(),
    "three_teachers": ThreeTeachers(),
    "unimatch": UniMatch(),
    "ac_mt": Ambiguous(),
    "ac_mt_label_errors": Ambiguous(select=Mislabelled()),
    "ac_mt_most_doubtful": Ambiguous(select=MostDoubtful()),
    "ac_mt_prototypes": AmbiguousByPrototype(),
    "ac_mt_unstable": Ambiguous(select=Unstable()),
    "adaptive_threshold": MeanTeacher(target=AdaptiveThreshold()),
    "affine_mt": MeanTeacher(target=AffineView()),
    "cople": NoiseRobust(),
    "double_uncertainty": DoubleUncertainty(),
    "er_mt": StructureAware(near=0.0, far=0.0),
    "feature_aggregation": Aggregation(),
    "frcnet": FrequencyRegion(),
    "fussnet": HeadsAgree(),
    "label_correction": LabelCorrection(),
    "lg_er_mt": StructureAware(),
    "ms_mt": MultiScale(),
    "patch_shuffle": PatchShuffle(),
    "patch_swap": PatchSwap(),
    "sco_ssl": ShadowAugmentation(),
    "self_similarity": SelfSimilarity(),
    "tripled_uncertainty": TripledUncertainty(),
    "ug_mcl": MutualTasks(),
}


def get(name: str) -> Method:
    """The method of that name. Raises ValueError with the nearest one."""
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    return METHODS[name]


def explain(name: str) -> str:
    """What a method is: its idea, players, target, fields and citations, as text of one screen."""
    method = get(name)
    lines = [f"{name} = {type(method).__name__}", "", cleandoc(type(method).__doc__ or ""), ""]
    lines += ["roles", *(f"  {who:<14}{_show(role)}" for who, role in method.roles().items())]
    lines += [f"  delivers      {method.delivers}", ""]
    target = getattr(method, "target", None)
    if target is not None:
        lines += ["target", f"  {type(target).__name__}", *_indent(cleandoc(type(target).__doc__ or "")), ""]
    lines += ["fields", *_tree(method)]
    cited = [text for part in (method, target) if (text := getattr(part, "citation", ""))]
    return "\n".join([*lines, "", "citation", *(f"  {text}" for text in cited)]) + "\n"


def _indent(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]


def _show(value: Any) -> str:
    inside = ", ".join(f"{f.name}={getattr(value, f.name)!r}" for f in fields(value))
    return f"{type(value).__name__}({inside})"


def _tree(value: Any, path: str = "") -> list[str]:
    lines = []
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner):
            lines += _tree(inner, f"{path}{item.name}.")
        else:
            lines.append(f"  {path + item.name:<28}{inner!r}")
    return lines


__all__ = ["METHODS", "Discriminator", "Method", "Terms", "explain", "get"]
