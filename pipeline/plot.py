"""Stage 4: draws figures of the trained model, as PNG files, and a page that shows them all."""

from __future__ import annotations

import pandas as pd

from pipeline.config.paths import DEFAULT, RunPaths
from pipeline.config.plain_yaml import read_yaml
from pipeline.config.stage import run_stage
from pipeline.config.validation import load_params
from pipeline.figures.curves import learning_curves, nll_by_samples
from pipeline.figures.decodings import decoding_figures
from pipeline.figures.latent import kl_per_dimension, latent_plane
from pipeline.models.codes import encode_test_set
from pipeline.report.page import write_page
from pipeline.runtime.device import choose_device
from pipeline.runtime.files import whole_folder
from pipeline.runtime.lock import locked
from pipeline.runtime.progress import announce


def main(paths: RunPaths = DEFAULT) -> None:
    params = load_params(paths.params)
    with locked(paths.results, "plot"):
        test = encode_test_set(paths.weights, params, choose_device())
        is_deterministic = test.model.is_deterministic
        dimensions = pd.read_csv(paths.tables / "dimensions.csv")
        dimensions = dimensions.sort_values("mean_variance" if is_deterministic else "kl", ascending=False)
        active = [int(i) for i in dimensions.loc[dimensions["active"], "dimension"] if i < test.model.latent_dim]

        announce("figures")
        with whole_folder(paths.figures) as folder:
            learning_curves(paths.curves, folder)
            latent_plane(folder / "latent.png", test.mu, test.labels, test.classes)
            if not is_deterministic:
                quantity = "KL" if params.model.top is None else "rate"  # z1's part is estimated, and may be negative
                kl_per_dimension(dimensions, folder / "kl_per_dimension.png", quantity)
                nll_by_samples(pd.read_csv(paths.tables / "nll.csv"), folder / "nll.png")
            decoding_figures(test, params, active, folder)
        announce("the page")
        report = pd.read_csv(paths.tables / "report.csv", index_col="quantity")
        changes = None if paths is DEFAULT else read_yaml(paths.about)["changes"]
        write_page(paths.page, test, dimensions, report, paths.figures, params.seed, changes)
        print(f"{paths.figures}: {', '.join(sorted(path.name for path in paths.figures.glob('*.png')))}")
        print(f"{paths.page}: {paths.page.stat().st_size / 1e6:.1f} MB, to open in a browser")


if __name__ == "__main__":
    run_stage(main, __doc__)
