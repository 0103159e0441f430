"""A semantic autoencoder made of a frozen denoiser: train it for a moment, then use the packaged one."""

import diffrep as dr

data = dr.data.load("digits")
denoiser = dr.load("ddpm-digits")

mine = dr.ShiftAutoencoder.fresh(denoiser, code_dim=32)
loader = dr.data.loader(data["train"], batch_size=64, seed=0)
config = dr.TrainConfig(steps=20, learning_rate=2e-3, warmup_steps=5)
for report in dr.train(dr.ShiftObjective(mine), loader, config):
    if report.step % 10 == 0:
        print(f"step {report.step}: loss {report.loss:.4f}")

autoencoder = dr.load("pdae-digits")
x0, ids = dr.data.to_tensor(data["test"].images[:8]), data["test"].ids[:8]
z = autoencoder.encode(x0)
x_T = autoencoder.invert(x0, z, steps=50)
exact = autoencoder.decode(z, x_T, steps=50)
alone = autoencoder.decode(z, steps=10, noise=dr.noise_for(0, ids))
for name, images in {"z and inverted x_T, 50 steps": exact, "z alone, 10 steps": alone}.items():
    print(f"MSE from {name}: {((images - x0) / 2).square().mean():.4f}")
frames = autoencoder.interpolate(x0[:1], x0[1:2], num_frames=5, steps=20)
print(f"{len(frames)} frames between two digits")
