"""nanoTabPFN trained on tables from a file, in its own Python: its model, its loop, its loader, none of its code here.

    python _nanotabpfn.py FOLDER TABLES.npz REAL.npz STEPS BATCH LEARNING_RATE THREADS

FOLDER is a checkout of github.com/automl/nanoTabPFN (Pfefferle, Hog, Purucker, Hutter 2025, arXiv 2511.03634).
TABLES.npz has xs [N, rows, F], ys [N, rows] and splits [N], the number of training rows, which must be the same for all
tables of a batch, because the loader takes the first one's. They are written into a file of its HDF5 layout beside
TABLES.npz. REAL.npz has, for each set i, train_x_i, train_y_i, test_x_i, and test_y_i. The last line of the answer is
JSON: steps, seconds and CPU seconds of the loop, the number of weights, and for each set the probability of class 1.

Only the standard library is imported up here: its Python need not have anything of ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def write_dump(h5py: Any, tables: Any, path: Path) -> None:
    """Write tables in the layout that the peer's loader reads."""
    count, rows, features = tables["xs"].shape
    with h5py.File(path, "w") as file:
        file["X"] = tables["xs"].astype("float32")
        file["y"] = tables["ys"].astype("float32")
        file["num_features"] = [features] * count
        file["num_datapoints"] = [rows] * count
        file["single_eval_pos"] = tables["splits"].astype("int64")
        file["max_num_classes"] = [int(tables["ys"].max()) + 1]


def main(argv: list[str]) -> None:
    """Train the peer and print what came of it."""
    folder, tables_path, real_path = (Path(word) for word in argv[:3])
    steps, batch, rate, threads = int(argv[3]), int(argv[4]), float(argv[5]), int(argv[6])
    try:
        import h5py  # pyright: ignore[reportMissingImports]
        import numpy as np
        import torch  # pyright: ignore[reportMissingImports]

        sys.path.insert(0, str(folder))
        import model as peer_model  # pyright: ignore[reportMissingImports]
        import train as peer_train  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    torch.set_num_threads(threads)
    dump = tables_path.with_suffix(".h5")
    write_dump(h5py, np.load(tables_path), dump)
    loader = peer_train.PriorDumpDataLoader(str(dump), num_steps=steps, batch_size=batch, device="cpu")
    network = peer_model.NanoTabPFNModel(
        embedding_size=96, num_attention_heads=4, mlp_hidden_size=192, num_layers=3, num_outputs=2
    )
    real, probabilities, spent = np.load(real_path), [], [0.0, 0.0]

    def evaluate(classifier: Any) -> dict[str, float]:
        """Called by the peer's loop after the last step, when its optimizer has put the averaged weights in place."""
        begin = time.perf_counter(), time.process_time()
        for i in range(len(real.files) // 4):
            classifier.fit(real[f"train_x_{i}"], real[f"train_y_{i}"])
            probabilities.append(classifier.predict_proba(real[f"test_x_{i}"])[:, 1].tolist())
        spent[:] = time.perf_counter() - begin[0], time.process_time() - begin[1]
        return {}

    began, cpu = time.perf_counter(), time.process_time()
    peer_train.train(network, loader, lr=rate, device="cpu", steps_per_eval=steps, eval_func=evaluate)
    answer: dict[str, Any] = {
        "steps": steps,
        "seconds": time.perf_counter() - began - spent[0],
        "cpu": time.process_time() - cpu - spent[1],
        "weights": sum(weight.numel() for weight in network.parameters()),
        "torch": torch.__version__,
        "probabilities": probabilities,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
