"""`make bench`: every comparison in alternation, each run in a process of its own; writes bench.csv, counts.csv, growth.csv and bench.html."""
import argparse, itertools, json, os, platform, subprocess, sys, time
SHELL = dict(os.environ)                                                          # before any import below can change it: contenders start as from a shell
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
    "Counts at a given density, cells by genes, made 1,024 cells at a time: a gene is there or not, and then mostly one."
    rng, parts = np.random.default_rng(seed), []
    p = np.minimum(density*rng.gamma(.4, 2.5, n_genes), .95).astype(np.float32)
    for start in range(0, n_cells, 1024):
        n = min(1024, n_cells - start)
        rows, cols = np.nonzero(rng.random((n, n_genes), np.float32) < p*(density/p.mean()))
        parts.append(sp.csr_matrix((rng.geometric(.6, len(rows)).astype(np.float32), (rows, cols)), shape=(n, n_genes)))
    return sp.vstack(parts, format="csr")


def cells_of(X):
    "AnnData as `pbmc3k` gives it: log values in X, counts in a layer."
    adata = ad.AnnData(X, obs=pd.DataFrame(index=[f"c{i}" for i in range(X.shape[0])]), var=pd.DataFrame(index=[f"g{i}" for i in range(X.shape[1])]))
    return log_normalize(adata)


def matrix_rate(n=2048, repeats=7):
    "Multiply-adds per second of a float32 matrix product on this machine: the best of several."
    A, B, best = torch.randn(n, n), torch.randn(n, n), np.inf
    for _ in range(repeats): start = time.perf_counter(); A @ B; best = min(best, time.perf_counter() - start)
    return n**3/best


def multiplications(X, batch_size, H=128):
    "Multiply-adds of an epoch that no exact method avoids: four sparse products, two of genes x hidden x hidden a step; the small layers are left out."
    steps = -(-X.shape[0]//batch_size)
    return 4*X.nnz*H + steps*2*X.shape[1]*H*H


def compare(path, batch_sizes, rounds, epochs, scvi):
    "Each contender in turn, `rounds` times, at every batch size."
    rows = []
    for b in batch_sizes:
        for r in range(rounds):
            for who in ("ours", "plain", *(["scvi"] if scvi else [])):
                got = contend(who, path, scvi if who == "scvi" else sys.executable, batch_size=b, epochs=epochs)
                rows.append(got | dict(round=r, epoch_s=float(np.median(got.pop("seconds")))))
                print(f"batch {b:5}  round {r+1}  {who:6} {rows[-1]['epoch_s']:8.3f} s per epoch, {got['peak_mb']:6.0f} MB", flush=True)
    return pd.DataFrame(rows)


def compare_counts(path, batch_sizes, seeds, epochs, scvi):
    "The same count model twice, ours and that of scvi-tools: time, memory, and the bound on cells held out. One round for each seed."
    rows = []
    for b, seed in itertools.product(batch_sizes, range(seeds)):
        for who in ("counts", *(["scvi"] if scvi else [])):
            got = contend(who, path, scvi if who == "scvi" else sys.executable, batch_size=b, epochs=epochs, seed=seed, held=True)
            rows.append(got | dict(round=seed, epochs=epochs, epoch_s=float(np.median(got.pop("seconds")))))
            print(f"counts  batch {b:5}  seed {seed}  {who:6} {rows[-1]['epoch_s']:8.3f} s per epoch, {got['peak_mb']:6.0f} MB, {got['elbo']:.1f} nats per held-out cell", flush=True)
    return pd.DataFrame(rows)


def grow(out, sizes, n_genes, rounds):
    "Time and memory against the number of stored values; the dense loop too, as far as it goes."
    rows = []
    for n, density in sizes:
        path = out/"grown.h5ad"
        cells = cells_of(simulate(n, n_genes, density))
        cells.layers.clear()                                                      # the models here need the log values only
        cells.write_h5ad(path)
        about = dict(cells=n, density=cells.X.nnz/np.prod(cells.shape), nonzeros=cells.X.nnz)
        del cells
        for r in range(rounds):
            for who in ("ours", *(["plain"] if n*n_genes <= 2e8 else [])):
                got = contend(who, path, epochs=2 if n > 2e4 else 3)
                rows.append(about | dict(who=who, round=r, epoch_s=float(np.median(got["seconds"])), peak_mb=got["peak_mb"]))
                print(f"{n:7,} cells at {about['density']:.1%}  {who:6} {rows[-1]['epoch_s']:8.2f} s per epoch, {got['peak_mb']:6.0f} MB", flush=True)
        path.unlink()
    return pd.DataFrame(rows)


def machine():
    "What it was measured on."
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor()) if os.path.exists("/proc/cpuinfo") else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=Path("_bench"))
    p.add_argument("--scvi", help="python of an environment that holds scvi-tools; without it that comparison is left out")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tiny", action="store_true", help="a small simulated set: shows that it runs, measures nothing")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    n, G, batch_sizes, epochs = (300, 500, [64], 2) if a.tiny else (2638, 13714, [128, 256, 1024, 4096], 8)
    cells = cells_of(simulate(n, G, .06)) if a.tiny else log_normalize(quality_control(pbmc3k(raw=True)))
    path = a.out/"cells.h5ad"
    cells.write_h5ad(path)
    rate = matrix_rate()
    table = compare(path, batch_sizes, a.rounds, epochs, a.scvi)
    ad.AnnData(cells.layers["counts"], obs=cells.obs, var=cells.var).write_h5ad(path)   # no logarithms: neither model of counts asks for them
    counted = compare_counts(path, [64] if a.tiny else [128, 1024], a.rounds, 2 if a.tiny else 20, a.scvi)
    rate = max(rate, matrix_rate())                                                # before and after: the machine may have been slowed by others
    table["limit_s"] = [multiplications(cells.X, b)/rate for b in table.batch_size]
    grown = grow(a.out, [(n*k, .06) for k in ((1, 2) if a.tiny else (1, 4, 16, 64))] + ([] if a.tiny else [(n, d) for d in (.02, .2)]), G, 1)
    path.unlink()
    table.to_csv(a.out/"bench.csv", index=False); counted.to_csv(a.out/"counts.csv", index=False); grown.to_csv(a.out/"growth.csv", index=False)
    (a.out/"machine.txt").write_text(f"{machine()}\n")
    write_page(a.out, table, counted, grown, machine())
    print(f"The comparison is in {a.out/'bench.html'}")


if __name__ == "__main__": main()
