"""Every method by name, as a value: `replace(METHODS["ua_mt"], ramp=Ramp(1.0))` is another one.

To add one: write a frozen dataclass beside these, add its line here; the contract suite tests it at once. Another
package adds one by an entry point (`entry_points`), and `edgemt check PACKAGE` runs the same suite on it.
"""

from __future__ import annotations

from edgemt.learning.method import Method, Terms
from edgemt.learning.perturbations import Noise
from edgemt.learning.roles import Ema
from edgemt.learning.schedules import Ramp
from edgemt.learning.targets import AdaptiveThreshold, AffineView, Confident, Soft, UncertaintyMasked
from edgemt.methods import entry_points
from edgemt.methods.ac_mt import Ambiguous, AmbiguousByPrototype, Mislabelled, MostDoubtful, Unstable
from edgemt.methods.adversarial import Adversarial, Discriminator
from edgemt.methods.bcp import CopyPaste
from edgemt.methods.consistency import FrequencyRegion, MultiScale, PatchShuffle, PatchSwap, ShadowAugmentation
from edgemt.methods.correction import LabelCorrection, NoiseRobust, SelfSimilarity
from edgemt.methods.cps import CrossPseudo
from edgemt.methods.decoders import CrossConsistency, MutualDecoders, MutualThreeDecoders, PyramidConsistency
from edgemt.methods.distillation import Distillation
from edgemt.methods.mean_teacher import Interpolation, MeanTeacher
from edgemt.methods.multitask import Aggregation, MutualTasks, TripledUncertainty
from edgemt.methods.sam_assisted import SamAssisted, SamHandover
from edgemt.methods.several_students import Competitive, HybridDual, MultiStudent, Progressive, SharedTeacher
from edgemt.methods.several_teachers import AlternateDiverse, Auxiliary, DualTeacher, ResidualDriven, ThreeTeachers
from edgemt.methods.ss_net import SmoothSeparate
from edgemt.methods.strong_views import CrossHead, CrossMatch, UncertaintyContrast, UniMatch
from edgemt.methods.supervised import EntropyMinimisation, Supervised
from edgemt.methods.tasks import DualTask, ShapeAdversarial
from edgemt.methods.uncertainty import DoubleUncertainty, HeadsAgree, StructureAware
from edgemt.methods.views import PiModel, TemporalEnsembling, VirtualAdversarial

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
    "two_stream_mt": MeanTeacher(
        target=Soft(noise=Noise(std=0.0)),
        distance="ce",
        ramp=Ramp(top=1.0, length=0.2),
        ema=Ema(mode="eval"),
        strong=True,
        mix="cutmix",
        separate_streams=True,
        image_dice=True,
    ),
    "cps": CrossPseudo(),
    "dan": Adversarial(),
    "distillation": Distillation(),
    "two_stream_distillation": Distillation(temperature=1.0, separate_streams=True, image_dice=True),
    "slice_distillation": Distillation(guide="bank", overlap=1.0),
    "bcp": CopyPaste(),
    "cct": CrossConsistency(),
    "dtc": DualTask(),
    "ict": Interpolation(),
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
    "s_acmt": SamAssisted(),
    "sam_handover": SamHandover(),
    "self_similarity": SelfSimilarity(),
    "tripled_uncertainty": TripledUncertainty(),
    "ug_mcl": MutualTasks(),
}


def get(name: str) -> Method:
    """The method of that name, ours or an installed package's. Raises ValueError with the nearest one."""
    return METHODS[name] if name in METHODS else entry_points.find(name, own=METHODS)


def explain(name: str) -> str:
    """What a method is: its idea, players, target, fields, cost and citations, as text of one screen."""
    from edgemt.methods import catalogue

    return catalogue.explain(name)


__all__ = ["METHODS", "Discriminator", "Method", "Terms", "explain", "get"]
