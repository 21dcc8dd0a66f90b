"""Table of methods: name -> value. `replace(METHODS["ua_mt"], ramp=SigmoidRampUp(1.0))` is a variant.

A method is one file, named as its key in the table, with one frozen dataclass, named as in its paper. To add a method,
write such a file and add one line to the table; the contract suite then tests it. Another package adds a method by an
entry point (`entry_points`), and `edgemt check PACKAGE` runs the same suite on it.
"""

from __future__ import annotations

from edgemt.learning.auxiliary_tasks import Discriminator
from edgemt.learning.ema import Ema
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.targets import (
    AdaptiveThreshold,
    AffineConsistent,
    ConfidenceThresholded,
    SoftTarget,
    UncertaintyMasked,
)
from edgemt.methods import entry_points
from edgemt.methods.ac_mt import ACMT, ACMTByPrototype, ConfidentLearningErrors, McUncertainty, TopKEntropy
from edgemt.methods.ad_mt import ADMT
from edgemt.methods.auxiliary import AuxiliaryNetwork
from edgemt.methods.bcp import BCP
from edgemt.methods.cct import CCT
from edgemt.methods.cds import CDS
from edgemt.methods.cmmt import CMMTNet
from edgemt.methods.cople import COPLENet
from edgemt.methods.cps import CPS
from edgemt.methods.cross_match import CrossMatch
from edgemt.methods.dan import DAN
from edgemt.methods.ddl import MultiStudent
from edgemt.methods.distillation import Distillation
from edgemt.methods.double_uncertainty import DUWM
from edgemt.methods.dsst import DSST
from edgemt.methods.dtc import DTC
from edgemt.methods.dual_teacher import DualTeacher, ThreeTeachers
from edgemt.methods.dycon import DyCON
from edgemt.methods.er_mt import LGERMT
from edgemt.methods.feature_aggregation import FeatureAggregation
from edgemt.methods.frcnet import FRCNet
from edgemt.methods.fussnet import FUSSNet
from edgemt.methods.hybrid_mt import HybridDualMeanTeacher
from edgemt.methods.ict import ICT
from edgemt.methods.label_correction import LabelCorrection
from edgemt.methods.mc_net import MCNet, MCNetPlus
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.methods.ms_mt import MSMT
from edgemt.methods.patch_shuffle import PatchShuffle
from edgemt.methods.patch_swap import PatchSwap
from edgemt.methods.pi_model import PiModel
from edgemt.methods.pmt import PMT
from edgemt.methods.rdmt import RDMT
from edgemt.methods.s_acmt import SACMT
from edgemt.methods.sam_handover import SamHandover
from edgemt.methods.sassnet import SASSNet
from edgemt.methods.sco_ssl import SCOSSL
from edgemt.methods.self_similarity import SelfSimilarity
from edgemt.methods.ss_net import SSNet
from edgemt.methods.supervised import EntropyMinimisation, Supervised
from edgemt.methods.temporal_ensembling import TemporalEnsembling
from edgemt.methods.tripled_uncertainty import TriUMT
from edgemt.methods.ug_mcl import UGMCL
from edgemt.methods.unimatch import UniMatch
from edgemt.methods.urpc import URPC
from edgemt.methods.vat import VAT

METHODS: dict[str, Method] = {
    "supervised": Supervised(),
    "entropy": EntropyMinimisation(),
    "mean_teacher": MeanTeacher(),
    "ua_mt": MeanTeacher(target=UncertaintyMasked()),
    "cutmix_mt": MeanTeacher(
        target=ConfidenceThresholded(),
        distance="dice_ce",
        ramp=SigmoidRampUp(top=1.0, length=0.2),
        ema=Ema(mode="eval"),
        strong=True,
        mix="cutmix",
    ),
    "soft_cutmix_mt": MeanTeacher(
        target=SoftTarget(noise=GaussianNoise(std=0.0)),
        distance="ce",
        ramp=SigmoidRampUp(top=1.0, length=0.5),
        ema=Ema(mode="eval"),
        strong=True,
        mix="cutmix",
    ),
    "two_stream_mt": MeanTeacher(
        target=SoftTarget(noise=GaussianNoise(std=0.0)),
        distance="ce",
        ramp=SigmoidRampUp(top=1.0, length=0.2),
        ema=Ema(mode="eval"),
        strong=True,
        mix="cutmix",
        separate_streams=True,
        image_dice=True,
    ),
    "cps": CPS(),
    "dan": DAN(),
    "distillation": Distillation(),
    "two_stream_distillation": Distillation(temperature=1.0, separate_streams=True, image_dice=True),
    "slice_distillation": Distillation(teacher_source="bank", overlap=1.0),
    "bcp": BCP(),
    "cct": CCT(),
    "dtc": DTC(),
    "ict": ICT(),
    "mc_net": MCNet(),
    "mc_net_plus": MCNetPlus(),
    "pi_model": PiModel(),
    "sassnet": SASSNet(),
    "ss_net": SSNet(),
    "temporal_ensembling": TemporalEnsembling(),
    "urpc": URPC(),
    "vat": VAT(),
    "ad_mt": ADMT(),
    "auxiliary": AuxiliaryNetwork(),
    "cds": CDS(),
    "cmmt": CMMTNet(),
    "cross_match": CrossMatch(),
    "ddl": MultiStudent(),
    "dsst": DSST(),
    "dual_teacher": DualTeacher(),
    "dycon": DyCON(),
    "hybrid_mt": HybridDualMeanTeacher(),
    "pmt": PMT(),
    "rdmt": RDMT(),
    "three_teachers": ThreeTeachers(),
    "unimatch": UniMatch(),
    "ac_mt": ACMT(),
    "ac_mt_label_errors": ACMT(select=ConfidentLearningErrors()),
    "ac_mt_most_doubtful": ACMT(select=TopKEntropy()),
    "ac_mt_prototypes": ACMTByPrototype(),
    "ac_mt_unstable": ACMT(select=McUncertainty()),
    "adaptive_threshold": MeanTeacher(target=AdaptiveThreshold()),
    "affine_mt": MeanTeacher(target=AffineConsistent()),
    "cople": COPLENet(),
    "double_uncertainty": DUWM(),
    "er_mt": LGERMT(near=0.0, far=0.0),
    "feature_aggregation": FeatureAggregation(),
    "frcnet": FRCNet(),
    "fussnet": FUSSNet(),
    "label_correction": LabelCorrection(),
    "lg_er_mt": LGERMT(),
    "ms_mt": MSMT(),
    "patch_shuffle": PatchShuffle(),
    "patch_swap": PatchSwap(),
    "sco_ssl": SCOSSL(),
    "s_acmt": SACMT(),
    "sam_handover": SamHandover(),
    "self_similarity": SelfSimilarity(),
    "tripled_uncertainty": TriUMT(),
    "ug_mcl": UGMCL(),
}


def get(name: str) -> Method:
    """The method with this name, built in or from an installed package.

    Raises ValueError with the closest known name.
    """
    return METHODS[name] if name in METHODS else entry_points.find(name, own=METHODS)


Terms = LossTerms  # its name before; packages with methods of their own may import it

# Read labels otherwise than by the losses for labels (`edgemt.learning.label_rules`).
_READ_LABELS = (
    *(BCP, CMMTNet, DTC, DyCON, FUSSNet, FeatureAggregation, HybridDualMeanTeacher, LabelCorrection, PMT, PatchSwap),
    *(SACMT, SASSNet, SSNet, SamHandover, TriUMT, UGMCL),
)


def takes_ignored_pixels(method: Method) -> bool:
    """Whether a method learns nothing from ignored pixels and follows the weights of classes."""
    return method.takes_ignored_pixels and not isinstance(method, _READ_LABELS)


def takes_overlapping_classes(method: Method) -> bool:
    """Whether a method learns classes that may overlap; of a mean teacher it depends on the target, too."""
    return method.takes_overlapping and getattr(getattr(method, "target", None), "takes_overlapping", True)


__all__ = [
    "METHODS",
    "Discriminator",
    "LossTerms",
    "Method",
    "Terms",
    "get",
    "takes_ignored_pixels",
    "takes_overlapping_classes",
]
