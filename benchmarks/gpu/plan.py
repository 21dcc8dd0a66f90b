"""The parts: what each measures, the module that does it, and what the machine must have for it."""

from __future__ import annotations

from dataclasses import dataclass

from edgemt.errors import unknown_name_message


@dataclass(frozen=True)
class Part:
    """One row of `run.sh --list`. `needs` are names of `environment.Environment.lacks`."""

    name: str
    about: str
    module: str  # of this package
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    resumes: str = "starts again"  # what a part that was cut does in the next call
    wants: tuple[str, ...] = ()  # the same names: without them the part runs, with fewer rows


PARTS = (
    Part("facts", "device, driver, clocks at rest and under load, rates", "facts", needs=("driver", "torch on CUDA")),
    Part("gpu_tests", "the tests that are marked gpu", "gpu_tests", needs=("torch on CUDA",)),
    Part("ua_mt_step", "a UA-MT step of the engine against the published loop", "step", needs=("torch on CUDA",)),
    Part(
        "cuda_latency",
        "a ship on ONNX Runtime's CUDA provider",
        "latency",
        ("--runtime", "cuda"),
        needs=("CUDA provider",),
        resumes="goes on with the next file",
    ),
    Part(
        "tensorrt_latency",
        "the same on TensorRT, beside trtexec on the same engine",
        "latency",
        ("--runtime", "tensorrt"),
        needs=("driver", "tensorrt"),
        wants=("trtexec",),
        resumes="goes on with the next file",
    ),
    Part(
        "rtx_latency",
        "the same on TensorRT for RTX, beside its own tool",
        "latency",
        ("--runtime", "tensorrt_rtx"),
        needs=("driver", "tensorrt_rtx"),
        wants=("tensorrt_rtx tool",),
        resumes="goes on with the next file",
    ),
    Part(
        "acdc_slices",
        "the recipe acdc_slices, 3 labelled patients: every stage",
        "training",
        ("--recipe", "acdc_slices"),
        needs=("torch on CUDA", "DATA/acdc", "disk"),
        resumes="goes on from its checkpoint",
    ),
    Part(
        "la",
        "the recipe la, UA-MT with 8 labelled volumes: every stage",
        "training",
        ("--recipe", "la"),
        needs=("torch on CUDA", "DATA/la2018", "disk"),
        resumes="goes on from its checkpoint",
    ),
    Part(
        "acdc_slices_controls",
        "acdc_slices with its supervised controls; after acdc_slices",
        "training",
        ("--recipe", "acdc_slices", "--controls"),
        needs=("torch on CUDA", "DATA/acdc", "disk"),
        resumes="goes on from its checkpoint",
    ),
    Part(
        "la_controls",
        "la with its supervised controls; after la",
        "training",
        ("--recipe", "la", "--controls"),
        needs=("torch on CUDA", "DATA/la2018", "disk"),
        resumes="goes on from its checkpoint",
    ),
)
NAMES = tuple(part.name for part in PARTS)


def chosen(names: list[str]) -> list[Part]:
    """The parts with these names, in the order of the plan; all for none. Raises ValueError for an unknown name."""
    for name in names:
        if name not in NAMES:
            raise ValueError("--part: " + unknown_name_message("part", name, NAMES))
    return [part for part in PARTS if not names or part.name in names]


def listing() -> str:
    """What `--list` prints."""
    width = max(map(len, NAMES))
    lines = [f"{part.name:{width}}  {part.about}" for part in PARTS]
    needs = [f"{'':{width}}  needs {', '.join(part.needs)}; cut by the budget it {part.resumes}" for part in PARTS]
    return "\n".join(line for pair in zip(lines, needs, strict=True) for line in pair)
