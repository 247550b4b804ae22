"""`make bench`: every comparison in alternation, each run in a process of its own; writes bench.csv, counts.csv,
growth.csv and bench.html."""
import argparse, itertools, json, os, platform, subprocess, sys, time
SHELL = dict(os.environ)     # before any import below can change it: contenders start as from a shell
from pathlib import Path
import anndata as ad, numpy as np, pandas as pd, scipy.sparse as sp, torch
from scvae_nb.data import log_normalize, pbmc3k, quality_control
from page import write_page

HERE = Path(__file__).parent


def contend(who, path, python=sys.executable, **options):
    "One run of `contender.py`, as a dict; the machine is left alone for a moment before it."
    args = [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in options.items()]
    time.sleep(1)
    done = subprocess.run([python, HERE/"contender.py", who, path, *args], capture_output=True, text=True, env=SHELL)
    if done.returncode: raise SystemExit(f"bench: {who} failed on {path}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def simulate(n_cells, n_genes, density, seed=0):
    "Counts at a given density, cells by genes, 1,024 cells at a time: a gene is there or not, and then mostly one."
    rng, parts = np.random.default_rng(seed), []
    p = np.minimum(density*rng.gamma(.4, 2.5, n_genes), .95).astype(np.float32)
    for start in range(0, n_cells, 1024):
        n = min(1024, n_cells - start)
        rows, cols = np.nonzero(rng.random((n, n_genes), np.float32) < p*(density/p.mean()))
        values = rng.geometric(.6, len(rows)).astype(np.float32)
        parts.append(sp.csr_matrix((values, (rows, cols)), shape=(n, n_genes)))
    return sp.vstack(parts, format="csr")


def cells_of(X):
    "AnnData as `pbmc3k` gives it: log values in X, counts in a layer."
    obs, var = (pd.DataFrame(index=[f"{kind}{i}" for i in range(n)]) for kind, n in zip("cg", X.shape))
    return log_normalize(ad.AnnData(X, obs=obs, var=var))


def matrix_rate(n=2048, repeats=7):
    "Multiply-adds per second of a float32 matrix product on this machine: the best of several."
    A, B, best = torch.randn(n, n), torch.randn(n, n), np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        A @ B
        best = min(best, time.perf_counter() - start)
    return n**3/best


def multiplications(X, batch_size, H=128):
    """Multiply-adds of an epoch that no exact method avoids: four sparse products, and two of genes x hidden x hidden
    a step. The small layers are left out."""
    steps = -(-X.shape[0]//batch_size)
    return 4*X.nnz*H + steps*2*X.shape[1]*H*H


def pythons(*ours, scvi):
    "The python of each contender: this one, and that of scvi-tools where there is one."
    return {who: sys.executable for who in ours} | ({"scvi": scvi} if scvi else {})


def with_median(run, **more):
    "The row of a run: its seconds per epoch become their median."
    run = dict(run)
    epoch_s = float(np.median(run.pop("seconds")))
    return run | more | dict(epoch_s=epoch_s)


def tell(row, start, end=""):
    print(f"{start}  {row['who']:6} {row['epoch_s']:8.3f} s per epoch, {row['peak_mb']:6.0f} MB{end}", flush=True)


def compare(path, batch_sizes, rounds, epochs, scvi):
    "Each contender in turn, `rounds` times, at every batch size."
    rows = []
    for b, r in itertools.product(batch_sizes, range(rounds)):
        for who, python in pythons("ours", "plain", scvi=scvi).items():
            run = contend(who, path, python, batch_size=b, epochs=epochs)
            rows.append(with_median(run, round=r))
            tell(rows[-1], f"batch {b:5}  round {r+1}")
    return pd.DataFrame(rows)


def compare_counts(path, batch_sizes, seeds, epochs, scvi):
    "The same count model twice, ours and that of scvi-tools: time, memory, and the bound on cells held out."
    rows = []
    for b, seed in itertools.product(batch_sizes, range(seeds)):              # one round for each seed
        for who, python in pythons("counts", scvi=scvi).items():
            run = contend(who, path, python, batch_size=b, epochs=epochs, seed=seed, held=True)
            rows.append(with_median(run, round=seed, epochs=epochs))
            tell(rows[-1], f"counts  batch {b:5}  seed {seed}", f", {run['elbo']:.1f} nats per held-out cell")
    return pd.DataFrame(rows)


def grow(out, sizes, n_genes, rounds):
    "Time and memory against the number of stored values; the dense loop too, as far as it goes."
    rows = []
    for n, density in sizes:
        path = out/"grown.h5ad"
        cells = cells_of(simulate(n, n_genes, density))
        cells.layers.clear()                                                  # the models here need the log values only
        cells.write_h5ad(path)
        about = dict(cells=n, density=cells.X.nnz/np.prod(cells.shape), nonzeros=cells.X.nnz)
        del cells
        fits_dense = n*n_genes <= 2e8
        for r, who in itertools.product(range(rounds), ("ours", "plain") if fits_dense else ("ours",)):
            run = with_median(contend(who, path, epochs=2 if n > 2e4 else 3))
            rows.append(about | dict(who=who, round=r, epoch_s=run["epoch_s"], peak_mb=run["peak_mb"]))
            tell(rows[-1], f"{n:7,} cells at {about['density']:.1%}")
        path.unlink()
    return pd.DataFrame(rows)


def machine():
    "What it was measured on."
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}"


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=Path("_bench"))
    p.add_argument("--scvi", help="python of an environment with scvi-tools; without it that comparison is left out")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tiny", action="store_true", help="a small simulated set: shows that it runs, measures nothing")
    return p.parse_args()


# What is compared: PBMC3k in full, or a simulated set that only shows that it runs
FULL = dict(
    batch_sizes=[128, 256, 1024, 4096], epochs=8, counts_batch_sizes=[128, 1024], counts_epochs=20, n_genes=13714,
    sizes=[*((2638*k, .06) for k in (1, 4, 16, 64)), (2638, .02), (2638, .2)])
TINY = dict(
    batch_sizes=[64], epochs=2, counts_batch_sizes=[64], counts_epochs=2, n_genes=500,
    sizes=[(300, .06), (600, .06)])


def main():
    a = arguments()
    plan = TINY if a.tiny else FULL
    a.out.mkdir(parents=True, exist_ok=True)
    if a.tiny: cells = cells_of(simulate(300, 500, .06))
    else: cells = log_normalize(quality_control(pbmc3k(raw=True)))
    path = a.out/"cells.h5ad"
    cells.write_h5ad(path)
    rate = matrix_rate()
    table = compare(path, plan["batch_sizes"], a.rounds, plan["epochs"], a.scvi)

    # The file of counts has no logarithms: neither model of counts asks for them
    ad.AnnData(cells.layers["counts"], obs=cells.obs, var=cells.var).write_h5ad(path)
    counted = compare_counts(path, plan["counts_batch_sizes"], a.rounds, plan["counts_epochs"], a.scvi)

    rate = max(rate, matrix_rate())              # before and after: the machine may have been slowed by others
    table["limit_s"] = [multiplications(cells.X, b)/rate for b in table.batch_size]
    grown = grow(a.out, plan["sizes"], plan["n_genes"], 1)
    path.unlink()
    for name, rows in dict(bench=table, counts=counted, growth=grown).items():
        rows.to_csv(a.out/f"{name}.csv", index=False)
    (a.out/"machine.txt").write_text(f"{machine()}\n")
    write_page(a.out, table, counted, grown, machine())
    print(f"The comparison is in {a.out/'bench.html'}")


if __name__ == "__main__": main()
