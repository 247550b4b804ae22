"""The benchmark as a page: ratios, memory, growth, and the limit beside them."""
import base64, io
import matplotlib.pyplot as plt, numpy as np, pandas as pd
from scvae_nb.cli import CSS
from scvae_nb.evaluate import style, write_aside

NAMES = dict(ours="scvae_nb", counts="scvae_nb SCVI", plain="plain dense PyTorch", scvi="scvi-tools SCVI")
COLOURS = dict(ours="#0072B2", counts="#0072B2", plain="#E69F00", scvi="#8A8A8A")


def ratios(table):
    "Seconds of each opponent over ours, round by round: median, lowest, highest; memory; share of the limit."
    wide = table.pivot_table(index=["batch_size", "round"], columns="who", values="epoch_s")
    rows = []
    for b, t in wide.groupby(level=0):
        at = table[table.batch_size == b]
        limit, seconds = at.limit_s.median(), at.groupby("who", sort=False).epoch_s.median()
        memory = at.groupby("who").peak_mb.median()
        for who in seconds.index.drop("ours"):
            r = t[who]/t.ours
            rows.append({"batch size": b, "against": NAMES[who], "ours (s per epoch)": seconds.ours, "theirs (s per epoch)": seconds[who], "times as fast": r.median(),
                "lowest": r.min(), "highest": r.max(), "our peak (MB)": memory.ours, "their peak (MB)": memory[who], "limit (s per epoch)": limit, "our share of the limit": limit/seconds.ours})
    return pd.DataFrame(rows)


def same_model(counted):
    "Both count models: medians over seeds, and for each batch size a verdict."
    mid = counted.groupby(["batch_size", "who"], sort=False)[["epoch_s", "peak_mb", "imported_mb", "reconstruction", "elbo"]].median().rename(index=NAMES).reset_index()
    mid.columns = ["batch size", "who", "s per epoch", "peak (MB)", "of it imports (MB)", "reconstruction (nats per held-out cell)", "ELBO (nats per held-out cell)"]
    return mid, [_verdict(t, b) for b, t in counted.groupby("batch_size")] if "scvi" in set(counted.who) else []


def _verdict(counted, batch_size):
    "The lowest and highest ratio of times, and how far apart the two are on cells held out."
    wide = counted.pivot(index="round", columns="who")
    r, ours, theirs = wide.epoch_s.scvi/wide.epoch_s.counts, wide.elbo.counts, wide.elbo.scvi
    peak = wide.peak_mb.median(); beyond = peak - wide.imported_mb.median()
    gap = (ours - theirs)/theirs.abs(); fit = (wide.reconstruction.counts - wide.reconstruction.scvi)/wide.reconstruction.scvi
    return (f"In batches of {batch_size:,} an epoch of ours is {r.median():.1f} times as fast ({r.min():.1f} to {r.max():.1f}) and the run takes {peak.counts/peak.scvi:.0%} of the memory from start to end, {beyond.counts/beyond.scvi:.0%} beyond what the imports take. "
        f"On the cells held out our bound is {gap.median():+.2%} ({gap.min():+.2%} to {gap.max():+.2%}) beside theirs, where more is better, and our reconstruction term {fit.median():+.2%} ({fit.min():+.2%} to {fit.max():+.2%}), where less is better.")


def _png(fig, path, alt):
    fig.savefig(path, dpi=150, bbox_inches="tight"); plt.close(fig)
    return f'<figure><img src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" alt="{alt}"></figure>'


@style()
def plot_epochs(table):
    "Seconds per epoch of each contender at each batch size, on a logarithmic scale, and the limit."
    fig, axs = plt.subplots(1, 2, figsize=(9, 3.6))
    who = [w for w in NAMES if w in set(table.who)]; sizes = sorted(table.batch_size.unique()); x = np.arange(len(sizes))
    for ax, column, label in zip(axs, ("epoch_s", "peak_mb"), ("seconds per epoch", "peak resident memory (MB)")):
        for i, w in enumerate(who):
            at = table[table.who == w].groupby("batch_size")[column]
            med = at.median().reindex(sizes)
            ax.bar(x + .27*(i - (len(who) - 1)/2), med, .25, yerr=[med - at.min().reindex(sizes), at.max().reindex(sizes) - med], color=COLOURS[w], label=NAMES[w], capsize=2)
        ax.set(xticks=x, xticklabels=[f"{s:,}" for s in sizes], xlabel="batch size", ylabel=label)
    limit = table.groupby("batch_size").limit_s.median().reindex(sizes)
    axs[0].set_yscale("log"); axs[0].hlines(limit, x - .42, x + .42, color="k", lw=1.5, ls=":", label="limit: the multiplications alone")
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(who) + 1)
    return fig


@style()
def plot_growth(grown):
    "Seconds and memory against stored values, on logarithmic axes, with a line that is straight on ordinary ones."
    fig, axs = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, column, label in zip(axs, ("epoch_s", "peak_mb"), ("seconds per epoch", "peak resident memory (MB)")):
        for w, t in grown.groupby("who", sort=False):
            ax.scatter(t.nonzeros/1e6, t[column], color=COLOURS[w], s=34, label=NAMES[w])
        ours = grown[grown.who == "ours"].sort_values("nonzeros")
        x, last = np.geomspace(ours.nonzeros.min(), ours.nonzeros.max()), ours.iloc[-1]
        base = ours[column].min()                                                  # what is there however few the values: imports, weights
        ax.plot(x/1e6, base + (last[column] - base)*x/last.nonzeros, color="0.6", ls="--", lw=1, zorder=0, label="a fixed part, and one in proportion to the stored values")
        ax.set(xscale="log", yscale="log", xlabel="stored values (millions)", ylabel=label)
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def write_page(out, table, counted, grown, machine):
    "bench.html with its pictures inside, and the pictures beside it."
    versions = ", ".join(dict.fromkeys([*table.package, *(f"torch {t}" for t in table.torch.unique()), *(f"Python {p}" for p in table.python.unique())]))
    html = lambda d: d.to_html(index=False, float_format=lambda v: f"{v:.2f}" if abs(v) < 100 else f"{v:,.0f}")
    both, verdicts = same_model(counted)
    text = f"""<!doctype html><html lang="en-GB"><head><meta charset="utf-8"><title>scvae_nb: benchmark</title><style>{CSS}</style></head><body><h1>What the zeros cost</h1>
<p>One epoch of the report's autoencoder with scvae_nb, with a plain dense PyTorch loop of the same network, and of scvi-tools' SCVI with one hidden layer of 128. SCVI is another model
(its likelihood is zero-inflated negative binomial, which takes more work per gene than a squared error): its times say what a user of the field's standard waits for, not how well it is written.
All runs alternate, each in a process of its own; the first half of its epochs, in which a run warms up, is left out. Medians of {table['round'].nunique()} rounds, with the lowest and the highest.</p>
<p>{machine}; {int(table.threads.max())} threads; {versions}.</p>
{_png(plot_epochs(table), out/"epochs.png", "Bars of seconds per epoch and of peak memory for each contender at each batch size.")}
{html(ratios(table))}
<p>The limit is the time that the unavoidable multiplications of an epoch would take at the rate of a large matrix product, measured in the same run.</p>
<h2>The same model of counts</h2>
<p>scVI as in notebook 12 and as in scvi-tools: the same network, likelihood, optimiser and batches, {int(counted.epochs.max())} epochs with the price of the code growing over the first half,
{counted['round'].nunique()} seed{'s' if counted['round'].nunique() > 1 else ''}, nine tenths of the cells to train on. The bound is that of the cells held out, mean of ten draws.</p>
{html(both)}
{"".join(f"<p>{v}</p>" for v in verdicts)}
<h2>Growth</h2>
{_png(plot_growth(grown), out/"growth.png", "Seconds per epoch and peak memory against the number of stored values, on logarithmic axes.")}
{html(grown.drop(columns="round"))}</body></html>"""
    write_aside(out/"bench.html", text)
