"""One contender in a process of its own: train, and print as JSON what it took. Started by `run.py`, never imported."""
import argparse, json, platform, resource, sys, time
from importlib.metadata import version


def _held(cells):
    "Nine of ten cells to train on, and every tenth to be judged on."
    held = [i % 10 == 0 for i in range(cells.n_obs)]
    return cells[[not h for h in held]].copy(), cells[held].copy()


def ours(path, batch_size, epochs, arithmetic, seed):
    import anndata as ad
    from scvae_nb.ae import AENet, DeepAE
    starts = []
    class Timed(AENet):
        def at_epoch(self, epoch, max_epochs): starts.append(time.perf_counter())
    DeepAE._net = Timed
    model = DeepAE(max_epochs=epochs, batch_size=batch_size, arithmetic=arithmetic, device="cpu", progress=False, random_state=seed).fit(ad.read_h5ad(path))
    return dict(seconds=[b - a for a, b in zip(starts, [*starts[1:], time.perf_counter()])], loss=model.history_["loss"][-1])


def plain(path, batch_size, epochs, _, seed):
    import anndata as ad, torch, plain
    X = torch.from_numpy(ad.read_h5ad(path).X.toarray())
    losses, seconds = plain.fit(X, epochs, batch_size, seed=seed)
    return dict(seconds=seconds, loss=losses[-1])


def counts(path, batch_size, epochs, _, seed):
    "Our SCVI on nine tenths of the cells; the bound on the others, mean of ten draws."
    import anndata as ad
    from scvae_nb.scvi import CountNet, SCVI
    starts, usual = [], CountNet.at_epoch
    def timed(self, epoch, max_epochs): starts.append(time.perf_counter()); usual(self, epoch, max_epochs)
    CountNet.at_epoch = timed
    train, held = _held(ad.read_h5ad(path))
    model = SCVI(max_epochs=epochs, batch_size=batch_size, n_epochs_kl_warmup=epochs//2, device="cpu", progress=False, random_state=seed).fit(train)
    seconds = [b - a for a, b in zip(starts, [*starts[1:], time.perf_counter()])]
    terms = model.elbo_terms(held, 10)
    return dict(seconds=seconds, reconstruction=terms["reconstruction"].mean(), elbo=terms["elbo"].mean())


def scvi(path, batch_size, epochs, judged, seed):
    "SCVI of scvi-tools: on all cells, or, to be judged, on nine tenths of them with the bound on the others."
    import anndata as ad, warnings
    warnings.simplefilter("ignore")
    import scvi
    from lightning.pytorch.callbacks import Callback
    scvi.settings.seed, scvi.settings.verbosity = seed, 40
    starts, ends = [], []
    class Timer(Callback):
        def on_train_epoch_start(self, *_): starts.append(time.perf_counter())
        def on_train_epoch_end(self, *_): ends.append(time.perf_counter())
    cells, held = _held(ad.read_h5ad(path)) if judged == "held" else (ad.read_h5ad(path), None)
    scvi.model.SCVI.setup_anndata(cells, layer="counts")
    model = scvi.model.SCVI(cells, n_hidden=128, n_layers=1)
    model.train(max_epochs=epochs, batch_size=batch_size, train_size=1., accelerator="cpu", enable_progress_bar=False, logger=False, callbacks=[Timer()],
        plan_kwargs=dict(n_epochs_kl_warmup=epochs//2))
    seconds = dict(seconds=[e - s for s, e in zip(starts, ends)])
    if held is None: return seconds
    mean = lambda f: sum(float(f()) for _ in range(10))/10
    return seconds | dict(reconstruction=mean(lambda: model.get_reconstruction_error(held)["reconstruction_loss"]), elbo=mean(lambda: model.get_elbo(held)))


def peak_mb():
    "Peak resident memory of this process. `ru_maxrss` alone would count what the parent held when it forked."
    try: return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))/1024
    except (OSError, StopIteration): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


PACKAGES = dict(ours="scvae_nb", counts="scvae_nb", plain="torch", scvi="scvi-tools")

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("who", choices=list(PACKAGES)); p.add_argument("path")
    p.add_argument("--batch-size", type=int, default=256); p.add_argument("--epochs", type=int, default=4); p.add_argument("--seed", type=int, default=0)
    p.add_argument("--how", default="auto", help="ours: the arithmetic; scvi: 'held' to be judged on cells held out")
    a = p.parse_args()
    got = globals()[a.who](a.path, a.batch_size, a.epochs, a.how, a.seed)
    import torch
    print(json.dumps(got | dict(who=a.who, batch_size=a.batch_size, seconds=got["seconds"][1:] or got["seconds"], peak_mb=peak_mb(),
        package=f"{PACKAGES[a.who]} {version(PACKAGES[a.who])}", torch=version("torch"), threads=torch.get_num_threads(), python=platform.python_version())))
