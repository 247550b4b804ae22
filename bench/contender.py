"""One contender in a process of its own: train, and print as JSON what it took. Started by `run.py`, never imported."""
import argparse, json, platform, resource, sys, time
from importlib.metadata import version


def _held(cells):
    "Nine of ten cells to train on, and every tenth to be judged on."
    held = [i % 10 == 0 for i in range(cells.n_obs)]
    return cells[[not h for h in held]].copy(), cells[held].copy()


def _epochs_of(net):
    "Have networks of a class note when an epoch begins; a function that gives the seconds of each."
    starts, usual = [], getattr(net, "at_epoch", lambda *_: None)
    def at_epoch(self, epoch, max_epochs):
        starts.append(time.perf_counter())
        usual(self, epoch, max_epochs)
    def seconds():
        ends = [*starts[1:], time.perf_counter()]
        return [end - start for start, end in zip(starts, ends)]
    net.at_epoch = at_epoch
    return seconds


def ours(path, batch_size, epochs, seed, _):
    import anndata as ad
    from scvae_nb.ae import DeepAE
    from scvae_nb.pair import VAE
    imported, seconds = peak_mb(), _epochs_of(VAE)
    model = DeepAE.report(max_epochs=epochs, batch_size=batch_size, device="cpu", progress=False, random_state=seed)
    model.fit(ad.read_h5ad(path))
    return dict(imported_mb=imported, seconds=seconds(), loss=model.history_["loss"][-1])


def plain(path, batch_size, epochs, seed, _):
    import anndata as ad, torch, plain
    imported = peak_mb()
    X = torch.from_numpy(ad.read_h5ad(path).X.toarray())
    losses, seconds = plain.fit(X, epochs, batch_size, seed=seed)
    return dict(imported_mb=imported, seconds=seconds, loss=losses[-1])


def counts(path, batch_size, epochs, seed, _):
    "Our SCVI on nine tenths of the cells; the bound on the others, mean of ten draws."
    import anndata as ad
    from scvae_nb.scvi import CountNet, SCVI
    imported, seconds = peak_mb(), _epochs_of(CountNet)
    train, held = _held(ad.read_h5ad(path))
    model = SCVI(max_epochs=epochs, batch_size=batch_size, n_epochs_kl_warmup=epochs//2, device="cpu", progress=False,
                 random_state=seed)
    model.fit(train)
    times, terms = seconds(), model.elbo_terms(held, 10)
    means = {k: terms[k].mean() for k in ("reconstruction", "elbo")}
    return dict(imported_mb=imported, seconds=times) | means


def scvi(path, batch_size, epochs, seed, judged):
    "SCVI of scvi-tools: on all cells, or, to be judged, on nine tenths of them with the bound on the others."
    import anndata as ad, warnings
    warnings.simplefilter("ignore")
    import scvi
    from lightning.pytorch.callbacks import Callback
    imported = peak_mb()
    scvi.settings.seed, scvi.settings.verbosity = seed, 40
    starts, ends = [], []
    class Timer(Callback):
        def on_train_epoch_start(self, *_): starts.append(time.perf_counter())
        def on_train_epoch_end(self, *_): ends.append(time.perf_counter())
    cells, held = ad.read_h5ad(path), None
    if judged: cells, held = _held(cells)
    scvi.model.SCVI.setup_anndata(cells, layer="counts" if "counts" in cells.layers else None)
    model = scvi.model.SCVI(cells, n_hidden=128, n_layers=1)
    model.train(
        max_epochs=epochs, batch_size=batch_size, train_size=1., accelerator="cpu", enable_progress_bar=False,
        logger=False, callbacks=[Timer()], plan_kwargs=dict(n_epochs_kl_warmup=epochs//2))
    costs = dict(imported_mb=imported, seconds=[end - start for start, end in zip(starts, ends)])
    if held is None: return costs
    reconstruction = [model.get_reconstruction_error(held)["reconstruction_loss"] for _ in range(10)]
    elbo = [model.get_elbo(held) for _ in range(10)]
    return costs | dict(reconstruction=sum(map(float, reconstruction))/10, elbo=sum(map(float, elbo))/10)


def peak_mb():
    "Peak resident memory of this process. `ru_maxrss` alone would count what the parent held when it forked."
    try: return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))/1024
    except (OSError, StopIteration): pass
    per_mb = 2**20 if sys.platform == "darwin" else 1024                      # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/per_mb


PACKAGES = dict(ours="scvae_nb", counts="scvae_nb", plain="torch", scvi="scvi-tools")


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("who", choices=list(PACKAGES))
    p.add_argument("path")
    p.add_argument("--batch-size", type=int, default=256)
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--held", action="store_true", help="judge a model of counts on cells held out")
    return p.parse_args()


def about(who):
    "What ran: versions and threads."
    import torch
    package = f"{PACKAGES[who]} {version(PACKAGES[who])}"
    return dict(package=package, torch=version("torch"), threads=torch.get_num_threads(),
                python=platform.python_version())


if __name__ == "__main__":
    a = arguments()
    costs = globals()[a.who](a.path, a.batch_size, a.epochs, a.seed, a.held)
    half = len(costs["seconds"])//2                                           # it warms up: pages, caches, threads
    costs |= dict(who=a.who, batch_size=a.batch_size, seconds=costs["seconds"][half:], peak_mb=peak_mb())
    print(json.dumps(costs | about(a.who)))
