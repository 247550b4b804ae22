"""One contender in a process of its own: train, and print as JSON what it took. Started by `run.py`, never imported."""
import argparse, json, platform, resource, sys, time
from importlib.metadata import version


def ours(path, batch_size, epochs, arithmetic):
    import anndata as ad
    from scvae_nb.ae import AENet, DeepAE
    starts = []
    class Timed(AENet):
        def at_epoch(self, epoch, max_epochs): starts.append(time.perf_counter())
    DeepAE._net = Timed
    model = DeepAE(max_epochs=epochs, batch_size=batch_size, arithmetic=arithmetic, device="cpu", progress=False, random_state=0).fit(ad.read_h5ad(path))
    return [b - a for a, b in zip(starts, [*starts[1:], time.perf_counter()])], model.history_["loss"], "scvae_nb"


def plain(path, batch_size, epochs, _):
    import anndata as ad, torch, plain
    X = torch.from_numpy(ad.read_h5ad(path).X.toarray())
    losses, seconds = plain.fit(X, epochs, batch_size)
    return seconds, losses, "torch"


def scvi(path, batch_size, epochs, _):
    import anndata as ad, warnings
    warnings.simplefilter("ignore")
    import scvi
    from lightning.pytorch.callbacks import Callback
    scvi.settings.seed, scvi.settings.verbosity = 0, 40
    starts, ends = [], []
    class Timer(Callback):
        def on_train_epoch_start(self, *_): starts.append(time.perf_counter())
        def on_train_epoch_end(self, *_): ends.append(time.perf_counter())
    cells = ad.read_h5ad(path)
    scvi.model.SCVI.setup_anndata(cells, layer="counts")
    model = scvi.model.SCVI(cells, n_hidden=128, n_layers=1)
    model.train(max_epochs=epochs, batch_size=batch_size, train_size=1., accelerator="cpu", enable_progress_bar=False, logger=False, callbacks=[Timer()])
    return [e - s for s, e in zip(starts, ends)], [], "scvi-tools"


def peak_mb():
    "Peak resident memory of this process. `ru_maxrss` alone would count what the parent held when it forked."
    try: return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))/1024
    except (OSError, StopIteration): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("who", choices=["ours", "plain", "scvi"]); p.add_argument("path")
    p.add_argument("--batch-size", type=int, default=256); p.add_argument("--epochs", type=int, default=4); p.add_argument("--arithmetic", default="auto")
    a = p.parse_args()
    seconds, losses, package = globals()[a.who](a.path, a.batch_size, a.epochs, a.arithmetic)
    import torch
    print(json.dumps(dict(who=a.who, batch_size=a.batch_size, seconds=seconds[1:] or seconds, loss=losses[-1] if losses else None, peak_mb=peak_mb(),
        package=f"{package} {version(package)}", torch=version("torch"), threads=torch.get_num_threads(), python=platform.python_version())))
