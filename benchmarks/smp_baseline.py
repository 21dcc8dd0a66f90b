"""What a user would do instead: a supervised U-Net of segmentation_models_pytorch on the same encoder and labels.

    python benchmarks/smp_baseline.py --recipe kvasir_cpu --root DIR --steps 700 --seed 0 --json smp.json

The encoder begins with the same ImageNet weights; loss (soft Dice + cross-entropy), AdamW with cosine decay, flips,
rotation, zoom and colour changes are the usual ones of such scripts. Dice is measured by `edgemt.evaluate` on the
recipe's validation list; the float graph is timed on OpenVINO at the recipe's size, in turns with SHIP if one is given.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino
import segmentation_models_pytorch as smp
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from deploy.package.package import open_package
from edgemt import recipes
from edgemt.inference.evaluate import evaluate
from edgemt.io import encoder_weights, load_encoder
from edgemt.pipeline.run_context import open_run


def train(args: argparse.Namespace) -> dict[str, object]:
    base = recipes.load(args.recipe)
    recipe = replace(base, data=replace(base.data, root=args.root), seed=args.seed)
    context = open_run(recipe, Path("runs") / "smp_baseline")
    channels, classes = context.slices.labelled.image.shape[-1], len(context.slices.classes)
    torch.manual_seed(args.seed)
    network = smp.Unet(f"tu-{args.encoder}", encoder_weights=None, in_channels=channels, classes=classes)
    weights = encoder_weights.find(args.encoder)
    assert weights is not None
    load_encoder.load_into(network.encoder.model, weights, channels=channels)
    network = network.to(memory_format=torch.channels_last)
    images, labels = context.slices.labelled.image.permute(0, 3, 1, 2), context.slices.labelled.label
    assert labels is not None
    shown = [v2.ColorJitter(0.3, 0.3, 0.3, 0.05)] if channels == 3 else []
    augment = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomAffine(45, scale=(0.8, 1.25)), *shown]
    )
    overlap, entropy = smp.losses.DiceLoss("multiclass"), torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.AdamW(network.parameters(), args.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.steps)
    begun = time.process_time()
    for step in range(args.steps):
        rows = torch.randint(0, len(images), (args.rows,))
        pairs = [augment(tv_tensors.Image(images[i]), tv_tensors.Mask(labels[i])) for i in rows]
        x = torch.stack([image for image, _ in pairs]).float() / 255 * 2 - 1
        y = torch.stack([mask for _, mask in pairs]).long()
        logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = overlap(logits, y) + entropy(logits, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"{step + 1}/{args.steps}  loss {loss.item():.3f}", flush=True)
    seconds = time.process_time() - begun
    network.eval()

    @torch.inference_mode()
    def masks(frames: np.ndarray) -> np.ndarray:
        chunks = [torch.from_numpy(frames[i : i + 8]).permute(0, 3, 1, 2) for i in range(0, len(frames), 8)]
        return np.concatenate([network(c.float() / 255 * 2 - 1).argmax(1).to(torch.uint8).numpy() for c in chunks])

    def masks_of_middle(frames: np.ndarray) -> np.ndarray:
        return masks(_middle(frames, channels))  # such a script has no neighbouring slices

    scores = evaluate(masks_of_middle, context.slices.val)
    found: dict[str, object] = {
        "command": f"--recipe {args.recipe} --steps {args.steps} --rows {args.rows} --seed {args.seed}",
        "date": time.strftime("%Y-%m-%d"),
        "encoder": args.encoder,
        "dice": scores.dice,
        "cpu_seconds": round(seconds),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    return found | timed(network, context.slices.val.frames[:8], channels, args)


def _middle(frames: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [N, H, W, channels]: of neighbouring slices the middle one, colours as they are."""
    return frames if frames.shape[-1] == channels else frames[..., [frames.shape[-1] // 2]]


def timed(network: torch.nn.Module, frames: np.ndarray, channels: int, args: argparse.Namespace) -> dict[str, object]:
    """Median ms of a frame on OpenVINO, one thread, batch 1: this network, and the quickest file of a ship."""
    height, width = frames.shape[1:3]
    calls = {}
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "unet.onnx"
        torch.onnx.export(network, (torch.zeros(1, channels, height, width),), path, dynamo=False)
        compiled = openvino.Core().compile_model(
            path, "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        )
        inputs = [
            np.ascontiguousarray(f[None].transpose(0, 3, 1, 2).astype(np.float32) / 255 * 2 - 1)
            for f in _middle(frames, channels)
        ]
        calls["smp_ms"] = [lambda x=x: compiled(x)[0].argmax(1) for x in inputs]
        if args.ship:
            from deploy.runtimes.load import runner

            ours = runner(open_package(args.ship), runtime="openvino", threads=1)
            calls["ship_ms"] = [lambda x=x: ours(x[None]) for x in frames]
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(40):
            for name, several in calls.items():
                for call in several:
                    begun = time.perf_counter()
                    call()
                    times[name].append(1000 * (time.perf_counter() - begun))
    return {name: round(float(np.median(values)), 3) for name, values in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="kvasir_cpu")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ship", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = train(given)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
