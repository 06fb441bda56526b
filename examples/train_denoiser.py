"""What `backcast train` does, in plain Python: your own network, images and noise go where theirs stand.

    python examples/train_denoiser.py 2000
    torchrun --nproc-per-node 2 examples/train_denoiser.py 2000    # each process takes its share of every batch

Run again, it goes on from the last checkpoint. Then: backcast reconstruct scans/ -d trained/small.safetensors ...
"""

import sys
from pathlib import Path

import torch

from data.training import SyntheticVolumes
from denoisers import Card, GatedUNet, GaussianNoise, NoisyPairs, TrainingOptions, save_weights, train, validation_of
from denoisers.training import processes

OPTIONS = {"channels": (16, 32), "blocks": (1, 1)}
LEVELS = (0.05, 0.1, 0.2)  # noise levels to validate at


def main(steps, folder=Path("trained"), n_volumes=256, batch=8):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)  # of the network's start
    network = GatedUNet(**OPTIONS)

    # Everything random is a function of seeds and numbers: item i is the same in every process and every run.
    images = SyntheticVolumes({"sx": 1.0}, (16, 16, 16), seed=0, n_volumes=n_volumes)
    held_out = SyntheticVolumes({"sx": 1.0}, (16, 16, 16), seed=0, n_volumes=n_volumes, split="validation")
    pairs = NoisyPairs(images, GaussianNoise(0.0, 0.2), seed=1)
    validate = validation_of({s: NoisyPairs(held_out, GaussianNoise(s, s), seed=2) for s in LEVELS}, n=8)

    options = TrainingOptions(steps=steps, batch=batch, lr=2e-3, warmup=50, validate_every=max(1, steps // 4))
    with processes() as (rank, _):  # those of torchrun; alone without
        result = train(
            network,
            pairs,
            validate,
            options,
            folder=folder,
            resume=True,
            on_report=[lambda r, net: r.validation_mse and print(f"step {r.step}: MSE {r.validation_mse:.2e}")],
        )
    card = Card(
        name="small",
        summary="an example",
        network={"kind": "gated_unet", "options": OPTIONS},
        n_dims=3,
        noise_range=(0.0, 0.2),
        validation={"mse": result.best_mse, "mse_by_noise_level": {str(s): e for s, e in result.per_level.items()}},
    )
    if rank == 0:
        save_weights(folder / "small.safetensors", network, card)
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]))
