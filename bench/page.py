"""The benchmark as a page: ratios, memory, growth, and the limit beside them."""
import base64
import matplotlib.pyplot as plt, numpy as np, pandas as pd
from scvae_nb.cli import CSS
from scvae_nb.files import write_aside
from scvae_nb.look import style

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
            rows.append({
                "batch size": b,
                "against": NAMES[who],
                "ours (s per epoch)": seconds.ours,
                "theirs (s per epoch)": seconds[who],
                "times as fast": r.median(),
                "lowest": r.min(),
                "highest": r.max(),
                "our peak (MB)": memory.ours,
                "their peak (MB)": memory[who],
                "limit (s per epoch)": limit,
                "our share of the limit": limit/seconds.ours,
            })
    return pd.DataFrame(rows)


MEANING = dict(
    batch_size="batch size",
    who="who",
    epoch_s="s per epoch",
    peak_mb="peak (MB)",
    imported_mb="of it imports (MB)",
    reconstruction="reconstruction (nats per held-out cell)",
    elbo="ELBO (nats per held-out cell)",
)


def same_model(counted):
    "Both count models: medians over seeds, and for each batch size a verdict."
    runs = counted[list(MEANING)].groupby(["batch_size", "who"], sort=False)
    medians = runs.median().rename(index=NAMES).reset_index().rename(columns=MEANING)
    if "scvi" not in set(counted.who): return medians, []
    return medians, [_verdict(t, b) for b, t in counted.groupby("batch_size")]


def _span(share):
    "Its median, lowest and highest, as text: +1.00% (+0.50% to +2.00%)."
    return f"{share.median():+.2%} ({share.min():+.2%} to {share.max():+.2%})"


VERDICT = (
    "In batches of {batch_size:,} an epoch of ours is {r:.1f} times as fast ({lowest:.1f} to {highest:.1f}) "
    "and the run takes {peak:.0%} of the memory from start to end, {beyond:.0%} beyond what the imports take. "
    "On the cells held out our bound is {bound} beside theirs, where more is better, "
    "and our reconstruction term {reconstruction}, where less is better.")


def _verdict(counted, batch_size):
    "The lowest and highest ratio of times, and how far apart the two are on cells held out."
    wide = counted.pivot(index="round", columns="who")
    r = wide.epoch_s.scvi/wide.epoch_s.counts
    peak = wide.peak_mb.median()
    beyond = peak - wide.imported_mb.median()
    bound = (wide.elbo.counts - wide.elbo.scvi)/wide.elbo.scvi.abs()
    fit = (wide.reconstruction.counts - wide.reconstruction.scvi)/wide.reconstruction.scvi
    return VERDICT.format(
        batch_size=batch_size, r=r.median(), lowest=r.min(), highest=r.max(), peak=peak.counts/peak.scvi,
        beyond=beyond.counts/beyond.scvi, bound=_span(bound), reconstruction=_span(fit))


def _png(fig, path, alt):
    fig.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(fig)
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{alt}"></figure>'


COLUMNS = dict(epoch_s="seconds per epoch", peak_mb="peak resident memory (MB)")


def _bars(ax, table, column, who, sizes):
    "Medians as bars, side by side at each batch size, with the lowest and the highest round."
    for i, w in enumerate(who):
        rounds = table[table.who == w].groupby("batch_size")[column]
        low, mid, high = (f().reindex(sizes) for f in (rounds.min, rounds.median, rounds.max))
        x = np.arange(len(sizes)) + .27*(i - (len(who) - 1)/2)
        ax.bar(x, mid, .25, yerr=np.array([mid - low, high - mid]), color=COLOURS[w], label=NAMES[w], capsize=2)


@style()
def plot_epochs(table):
    "Seconds per epoch of each contender at each batch size, on a logarithmic scale, and the limit."
    fig, axs = plt.subplots(1, 2, figsize=(9, 3.6))
    who = [w for w in NAMES if w in set(table.who)]
    sizes = sorted(table.batch_size.unique())
    x = np.arange(len(sizes))
    for ax, (column, label) in zip(axs, COLUMNS.items()):
        _bars(ax, table, column, who, sizes)
        ax.set(xticks=x, xticklabels=[f"{s:,}" for s in sizes], xlabel="batch size", ylabel=label)
    limit = table.groupby("batch_size").limit_s.median().reindex(sizes)
    axs[0].set_yscale("log")
    axs[0].hlines(limit, x - .42, x + .42, color="k", lw=1.5, ls=":", label="limit: the multiplications alone")
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(who) + 1)
    return fig


@style()
def plot_growth(grown):
    "Seconds and memory against stored values, on logarithmic axes, with a line that is straight on ordinary ones."
    fig, axs = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, (column, label) in zip(axs, COLUMNS.items()):
        for w, t in grown.groupby("who", sort=False):
            ax.scatter(t.nonzeros/1e6, t[column], color=COLOURS[w], s=34, label=NAMES[w])
        ours = grown[grown.who == "ours"].sort_values("nonzeros")
        x, last = np.geomspace(ours.nonzeros.min(), ours.nonzeros.max()), ours.iloc[-1]
        base = ours[column].min()             # what is there however few the values: imports, weights
        line = base + (last[column] - base)*x/last.nonzeros
        ax.plot(x/1e6, line, color="0.6", ls="--", lw=1, zorder=0,
                label="a fixed part, and one in proportion to the stored values")
        ax.set(xscale="log", yscale="log", xlabel="stored values (millions)", ylabel=label)
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


PAGE = """<!doctype html>
<html lang="en-GB"><head><meta charset="utf-8"><title>scvae_nb: benchmark</title><style>{css}</style></head>
<body>
<h1>What the zeros cost</h1>
<p>One epoch of the report's autoencoder with scvae_nb, with a plain dense PyTorch loop of the same network, and of
scvi-tools' SCVI with one hidden layer of 128. SCVI is another model (its likelihood is zero-inflated negative binomial,
which takes more work per gene than a squared error): its times say what a user of the field's standard waits for, not
how well it is written. All runs alternate, each in a process of its own; the first half of its epochs, in which a run
warms up, is left out. Medians of {rounds} rounds, with the lowest and the highest.</p>
<p>{machine}; {threads} threads; {versions}.</p>
{epochs_figure}
{ratios}
<p>The limit is the time that the unavoidable multiplications of an epoch would take at the rate of a large matrix
product, measured in the same run.</p>
<h2>The same model of counts</h2>
<p>scVI as in notebook 32 and as in scvi-tools: the same network, likelihood, optimiser and batches, {epochs} epochs
with the weight of the KL growing over the first half, {seeds}, nine tenths of the cells to train on. The bound is that
of the cells held out, mean of ten draws.</p>
{same_model}
{verdicts}
<h2>Growth</h2>
{growth_figure}
{growth}
</body></html>"""


def _html(table):
    "A table of the page; numbers to two digits, large ones whole."
    return table.to_html(index=False, float_format=lambda v: f"{v:.2f}" if abs(v) < 100 else f"{v:,.0f}")


def _versions(table):
    "Every package, torch and Python that ran, each once."
    torch, python = (table[k].unique() for k in ("torch", "python"))
    return ", ".join(dict.fromkeys([*table.package, *(f"torch {v}" for v in torch), *(f"Python {v}" for v in python)]))


def write_page(out, table, counted, grown, machine):
    "bench.html with its pictures inside, and the pictures beside it."
    medians, verdicts = same_model(counted)
    n_seeds = counted["round"].nunique()
    text = PAGE.format(
        css=CSS,
        rounds=table["round"].nunique(),
        machine=machine,
        threads=int(table.threads.max()),
        versions=_versions(table),
        epochs_figure=_png(plot_epochs(table), out/"epochs.png",
                           "Bars of seconds per epoch and of peak memory for each contender at each batch size."),
        ratios=_html(ratios(table)),
        epochs=int(counted.epochs.max()),
        seeds=f"{n_seeds} seed{'s' if n_seeds > 1 else ''}",
        same_model=_html(medians),
        verdicts="".join(f"<p>{v}</p>" for v in verdicts),
        growth_figure=_png(plot_growth(grown), out/"growth.png",
                           "Seconds per epoch and peak memory against the number of stored values, both logarithmic."),
        growth=_html(grown.drop(columns="round")))
    with write_aside(out/"bench.html") as aside: aside.write_text(text, encoding="utf-8")
