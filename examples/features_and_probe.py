"""Which layer, which noise level? Features of the digits at every tap, chosen by cross-validation, tested once."""

import diffrep as dr

data = dr.data.load("digits")
denoiser = dr.load("ddpm-digits")
features = dr.TapFeatures(denoiser, taps="*", levels=denoiser.schedule.at([0, 10, 40]))
train, val, test = (dr.extract(features, data[split]) for split in ("train", "val", "test"))

best = dr.probes.select(dr.RidgeProbe(), train, val, test, cv=5)
print(f"best of {len(best.table)} cells: {best.name}, test accuracy {best.score:.3f}")

pixels = data["train"].images.reshape(len(data["train"]), -1) / 255.0
test_pixels = data["test"].images.reshape(len(data["test"]), -1) / 255.0
control = dr.LinearProbe().fit(pixels, data["train"].labels).score(test_pixels, data["test"].labels)
print(f"control, logistic regression on raw pixels: {control:.3f}")
