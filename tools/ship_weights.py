"""Put trained weights into the package, for `pretrain_weights: package://NAME`.

    python tools/ship_weights.py output/RUN/best_model --name NAME -c configs/ttfnet/pafnet_r18vd_256_bccd.yml \
        --command 'ppdet-repro train -c ...' --data 'what it is, its seed' --data_licence MIT \
        --result 'AP50 0.87 on ..., command' --hardware '2 cores of ...' --date 2026-11-28

It writes ppdet_repro/weights/NAME.pdparams and NAME.json. The file has the whole detector, its last layers too: a
training with another number of classes leaves these out and says so in one line. Entries that no network reads
(averages, counters) are left out, and filters are stored in 16 bits. Compare the two files on the data of the result:

    ppdet-repro eval -c CONFIG -o weights=output/RUN/best_model
    ppdet-repro eval -c CONFIG -o weights=package://NAME

`ppdet_repro/engine/starting/recipes.py` says which names `ppdet-repro init` starts from.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import _checkout

from ppdet_repro.utils.errors import run_command


def ship(arguments: Namespace) -> None:
    """Write the two files. UserError if the weights are not those of the config."""
    from ppdet_repro.core.config import build_model, load_config
    from ppdet_repro.engine.model_weights import load_exact, weights_of
    from ppdet_repro.studies.identity import paddle_version
    from ppdet_repro.utils import packaged_weights
    from ppdet_repro.utils.downloads import resolve
    from ppdet_repro.utils.files import file_sha256
    from ppdet_repro.utils.packaged import packaged_configs
    from ppdet_repro.utils.packaged_weights import Provenance, halved, write_provenance
    from ppdet_repro.utils.weights import save_state

    cfg = load_config(arguments.config)
    source = resolve(arguments.weights)
    model = build_model(cfg)
    load_exact(model, source)
    path = packaged_weights.WEIGHTS / f"{arguments.name}.pdparams"
    save_state(path, halved(weights_of(model)))
    load_exact(model, path)  # it can be read back
    given = {key: getattr(arguments, key) for key in ("command", "data", "data_licence", "result", "hardware", "date")}
    config = Path(arguments.config).resolve().relative_to(packaged_configs().resolve()).as_posix()
    hashes = {"trained_sha256": file_sha256(source), "sha256": file_sha256(path)}
    found = Provenance(config=config, num_classes=cfg.run.num_classes, paddle=paddle_version(), **given, **hashes)
    write_provenance(arguments.name, found)
    print(f"{path}: {path.stat().st_size:,} bytes; package://{arguments.name}")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="file that a training wrote")
    add("-c", "--config", required=True, metavar="FILE", help="config of the training, one of the package's")
    add("--name", required=True, help="name of the weights in the package")
    add("--command", required=True, help="command that trained them")
    add("--data", required=True, help="what they were trained on")
    add("--data_licence", required=True, help="licence of these data")
    add("--result", required=True, help="the metric, on which data, by which command")
    add("--hardware", required=True, help="machine, and time of the training")
    add("--date", required=True, metavar="YYYY-MM-DD", help="date of the training")
    ship(parser.parse_args())


if __name__ == "__main__":
    run_command(main)
