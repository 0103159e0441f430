"""How the demo's outcomes become one report: headline numbers beside their controls, then each part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffrep.data import Dataset
from diffrep.denoiser import Denoiser
from diffrep.experiments.document import Block, Column, Outcome, Row, comparison, heat_map, section, table
from diffrep.experiments.probe_grid import split_name

if TYPE_CHECKING:
    from diffrep.experiments.demo import DemoSettings

TITLE = "What a denoiser knows about digits"
SUMMARY = (
    "A diffusion model that was trained only to remove noise from {size}x{size} images is left as it is. This run "
    "reads features from inside it, and trains an encoder and a shift that steer it by {numbers} numbers per image; "
    "every result stands beside the cheap control that it must beat."
)
WHY_TIE = (
    "With all labels and 2x2 pooling the untrained network nearly ties with the trained one, {untrained:.1%} against "
    "{trained:.1%}: small digits are almost "
    "linearly separable, and enough random nonlinear features that keep coarse positions suffice for a linear probe "
    "when there are {count:,} labels to fit it. What training adds shows with few labels and positions pooled away."
)


def compose(
    settings: DemoSettings,
    denoiser: Denoiser,
    parts: Mapping[str, Dataset],
    probes: Outcome,
    rebuilt: Outcome,
    pictures: Mapping[str, Outcome],
    gap: Outcome,
) -> Outcome:
    """Join the outcomes of the demo's parts: flat results, sections in reading order, arrays by name."""
    results: dict[str, Any] = {**rebuilt.results, **probes.results, **gap.results}
    results |= _derived(settings, results, denoiser)
    arrays = {k: v for part in (rebuilt, *pictures.values(), gap) for k, v in part.arrays.items()}
    drawn = [block for name in ("samples", "same_code") for block in pictures[name].sections[0]["blocks"]]
    sections = [
        section("Headline numbers", *_headlines(settings, results, denoiser.input.channels * denoiser.input.size**2)),
        section("Samples", *drawn, text="The model draws new digits from noise; a code fixes what they show."),
        section("Accuracy by tap and noise level", *_heat_maps(settings, denoiser, probes), text=_how_chosen(settings)),
        section("Probes and their controls", _probe_table(settings, results), text=_why(parts, results)),
        *rebuilt.sections,
        *pictures["interpolation"].sections,
        *pictures["edit"].sections,
        *gap.sections,
    ]
    about = {
        "kind": "demo",
        "title": TITLE,
        "summary": SUMMARY.format(size=denoiser.input.size, numbers=settings.code_dim),
        "protocol": _protocol(settings, denoiser, parts),
    }
    return Outcome(results, sections, arrays, about)


def _derived(settings: DemoSettings, results: Mapping[str, Any], denoiser: Denoiser) -> dict[str, Any]:
    """Ratios and differences that the honest bars speak of, and the chosen level's own time."""
    times = {round(float(level.log_snr), 2): t for t, level in _levels(settings, denoiser)}
    return {
        "steps": settings.steps,
        "seed": settings.seed,
        "z_only_to_mean_image": results["z_only_mse"] / results["mean_image_mse"],
        "z_only_to_shuffled_z": results["z_only_mse"] / results["shuffled_z_mse"],
        "probe_over_untrained": results["probe_trained"] - results.get("probe_untrained", float("nan")),
        "probe_over_raw_pixels": results["probe_trained"] - results["probe_raw_pixels"],
        "best_t": times.get(round(results["best_log_snr"], 2)),
    }


def _levels(settings: DemoSettings, denoiser: Denoiser) -> list[tuple[int, Any]]:
    return list(zip(settings.levels, denoiser.schedule.at(list(settings.levels)), strict=True))


def _headlines(settings: DemoSettings, results: Mapping[str, Any], pixels: int) -> list[Block]:
    n, m = settings.headline_steps, settings.inversion_steps[0]
    return [
        comparison(
            f"Reconstruction from z alone: MSE on test, {n} steps",
            [
                ("z only", results["z_only_mse"]),
                ("shuffled z", results["shuffled_z_mse"]),
                ("mean image", results["mean_image_mse"]),
                ("unconditional", results["unconditional_mse"]),
                (f"PCA, {settings.code_dim} numbers", results["pca_mse"]),
            ],
            better="lower",
            note=f"PCA is fitted to make just this number small, with {settings.code_dim} numbers for {pixels} pixels.",
        ),
        comparison(
            f"Reconstruction with inverted x_T: MSE on test, {m} + {m} steps",
            [
                ("z + inverted x_T", results["inverted_mse"]),
                ("inverted x_T, no code", results["inverted_without_code_mse"]),
            ],
            better="lower",
        ),
        comparison(
            f"Linear probe with {settings.per_class} labels per class: accuracy on test, mean-pooled features",
            [
                ("trained denoiser", results["probe_trained"]),
                (f"untrained, mean of {settings.initializations}", results["probe_untrained"]),
                ("raw pixels", results["probe_raw_pixels"]),
            ],
            better="higher",
            format=".1%",
            note=f"Tap {results['best_tap']} at log-SNR {results['best_log_snr']:.2f}; mean of {settings.draws} draws.",
        ),
    ]


def _heat_maps(settings: DemoSettings, denoiser: Denoiser, probes: Outcome) -> list[Block]:
    columns = [
        f"{float(level.log_snr):.2f}\nt\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{t}"
        for t, level in _levels(settings, denoiser)
    ]
    drawn = []
    for pool, grid in probes.about["grids"].items():
        cells = {split_name(name): accuracy for name, accuracy in grid.items()}
        taps = [tap.name for tap in denoiser.taps if any(tap.name == found for found, _ in cells)]
        levels = sorted({level for _, level in cells}, reverse=True)
        values = [[_percent(cells.get((tap, level))) for level in levels] for tap in taps]
        best = max(cells, key=lambda cell: cells[cell])
        drawn.append(
            heat_map(
                values,
                taps,
                columns,
                row_title="tap",
                column_title="log-SNR",
                format=".1f",
                chosen=(taps.index(best[0]), levels.index(best[1])),
                caption=f"Percent correct, features pooled to {'their mean' if pool == 'mean' else pool}.",
            )
        )
    return drawn


def _percent(accuracy: float | None) -> float | None:
    return None if accuracy is None else 100 * accuracy


def _how_chosen(settings: DemoSettings) -> str:
    return (
        "Ridge probe on every tap at every level of the trained denoiser, by 5-fold cross-validation on train and "
        "validation with all labels. The outlined cell is the one that is then tested; the test set has no say in it."
    )


def _probe_table(settings: DemoSettings, results: Mapping[str, Any]) -> Block:
    few = f"{settings.per_class} per class"
    columns = [Column(f"{labels}, {pool}", ".1f", "higher") for pool in ("mean", "2x2") for labels in (few, "all")]

    def row(name: str) -> list[float | None]:
        keys = [f"probe_{name}{pool}{labels}" for pool in ("", "_2x2") for labels in ("", "_all")]
        return [_percent(results.get(key)) for key in keys]

    pixels = [_percent(results["probe_raw_pixels"]), _percent(results["probe_raw_pixels_all"])] * 2
    chosen = f"{results['best_tap']}, 2x2: {results['best_tap_2x2']}"
    return table(
        columns,
        [
            Row("trained denoiser", row("trained"), note=f"mean: {chosen}"),
            Row(
                "untrained network",
                row("untrained"),
                "trained denoiser",
                f"mean of {settings.initializations} initializations",
            ),
            Row("raw pixels", pixels, "trained denoiser", "not pooled"),
        ],
        first="Percent correct",
        caption=f"On test, by labels and pooling. Few labels: mean of {settings.draws} draws, the same for all rows.",
    )


def _why(parts: Mapping[str, Dataset], results: Mapping[str, Any]) -> str:
    trained, untrained = results["probe_trained_2x2_all"], results["probe_untrained_2x2_all"]
    return WHY_TIE.format(count=len(parts["train"]) + len(parts["val"]), trained=trained, untrained=untrained)


def _protocol(settings: DemoSettings, denoiser: Denoiser, parts: Mapping[str, Dataset]) -> dict[str, Any]:
    return {
        "model": denoiser.source or "trained in this run",
        "model_sha256": denoiser.identity,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "images": {name: len(part) for name, part in parts.items()},
        "data": parts["test"].source,
        "data_sha256": {name: part.revision for name, part in parts.items()},
        "probe": "ridge on standardised features, penalty by 5-fold cross-validation within the labels at hand",
        "autoencoder": f"{settings.steps} steps of batch {settings.batch_size}, code of {settings.code_dim} numbers",
        "sampler": "DDIM, eta 0, the denoiser's own path and clipping",
        "ssim": "window 11, sigma 1.5, zero padding, at native size, on [0, 1]",
    }
