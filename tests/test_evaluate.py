"""Evaluation from outside: scores against scikit-learn and the published numbers, pictures that can be read back,
input that must be refused."""
import errno, os, subprocess, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex
from sklearn import metrics
from sklearn.datasets import make_blobs
from scvae_nb import evaluate as ev, look

TYPES = np.array(["B", "NK", "CD8 T", "DC"])
Z, blob = make_blobs([60, 50, 40, 30], n_features=5, centers=np.eye(4, 5)*40, random_state=0)
y = TYPES[blob]                                                       # four types, well apart

def two_types(pairs): return len({t for t, _ in pairs}) > 1
labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=2, max_size=60).filter(two_types)
def nmi(a, b): return metrics.normalized_mutual_info_score(a, b, average_method="geometric")


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    "No figure may ask for a screen; all are closed afterwards."
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def judged(): return ev.evaluate(Z, y, perplexity=15)


def run_python(code, **env):
    "What another process prints that runs this code."
    python = [sys.executable, "-c", code]
    return subprocess.run(python, env=os.environ | env, capture_output=True, text=True, check=True).stdout.strip()


# ---- scores

@pytest.mark.parametrize("published, h, c", [(.7209, .7704, .6745), (.6092, .6543, .5673), (.6456, .6921, .6021)])
def test_published_nmi_is_the_geometric_one(published, h, c): assert published == pytest.approx((h*c)**.5, abs=1e-4)


@given(labels)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_scikit_learn(pairs):
    types, clusters = map(list, zip(*pairs))
    s = ev.scores([TYPES[t % 4] + str(t) for t in types], clusters)
    assert s["nmi"] == pytest.approx(nmi(types, clusters), abs=1e-12)
    assert s["ari"] == pytest.approx(metrics.adjusted_rand_score(types, clusters), abs=1e-12)
    assert s["homogeneity"] == pytest.approx(metrics.homogeneity_score(types, clusters), abs=1e-12)
    assert s["completeness"] == pytest.approx(metrics.completeness_score(types, clusters), abs=1e-12)
    if len(set(clusters)) > 1: assert s["nmi"] == pytest.approx((s["homogeneity"]*s["completeness"])**.5, abs=1e-9)


@given(labels, st.permutations(range(6)), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_names_of_clusters_and_order_of_cells_do_not_matter(pairs, rename, rng):
    types, clusters = map(np.array, zip(*pairs))
    before, n = ev.scores(types, clusters), ev.types_found(types, clusters)[0]
    order = rng.sample(range(len(types)), len(types))
    again = np.array(rename)[clusters][order]
    assert ev.scores(types[order], again) == pytest.approx(before, abs=1e-9)
    assert ev.types_found(types[order], again)[0] == n


def test_scores_of_an_embedding_equal_scikit_learn(judged):
    for prefix, clusters in (("", judged.clusters), ("latent_", judged.latent_clusters)):
        assert judged.row[prefix + "ari"] == pytest.approx(metrics.adjusted_rand_score(y, clusters), abs=1e-12)
        assert judged.row[prefix + "homogeneity"] == pytest.approx(metrics.homogeneity_score(y, clusters), abs=1e-12)
        assert judged.row[prefix + "completeness"] == pytest.approx(metrics.completeness_score(y, clusters), abs=1e-12)
        assert judged.row[prefix + "nmi"] == pytest.approx(nmi(y, clusters), abs=1e-12)


def test_separate_types_are_all_found(judged):
    own = ["nmi", "ari", "homogeneity", "completeness", "types_found"]
    assert list(judged.row) == own + ["latent_" + c for c in own]
    assert [judged.row[c] for c in own[:4]] == pytest.approx([1]*4)
    assert judged.row["types_found"] == judged.row["latent_types_found"] == 4
    assert judged.embedding.shape == (180, 2) and judged.centroids.shape == (4, 2)


# ---- types found

def test_perfect_clusters_find_every_type():
    assert ev.scores(y, y) == pytest.approx(dict(nmi=1, ari=1, homogeneity=1, completeness=1))
    assert ev.types_found(y, y) == (4, {t: t for t in sorted(TYPES)})


@pytest.mark.parametrize("a, b", [(0, 1), (0, 3), (2, 1)])
def test_merging_two_types_costs_the_smaller(a, b):
    merged = np.where(blob == b, a, blob)
    n, where = ev.types_found(y, merged)
    assert n == 3 and set(TYPES) - set(where) == {TYPES[max(a, b)]}    # sizes fall with the number
    s = ev.scores(y, merged)
    assert s["completeness"] == pytest.approx(1) and s["homogeneity"] < .95


def test_merging_two_types_of_one_size_costs_both():
    assert ev.types_found(list("aabbcc"), [0, 0, 0, 0, 1, 1]) == (1, {"c": 1})


def test_a_split_type_is_found_if_one_part_holds_most_of_it():
    assert ev.types_found(list("aaaabb"), [0, 0, 0, 1, 2, 2])[1] == {"a": 0, "b": 2}
    assert ev.types_found(list("aaaabb"), [0, 0, 1, 1, 2, 2])[1] == {"b": 2}
    assert ev.types_found(list("aaaabb"), [0, 0, 1, 1, 2, 2], rule="majority")[1] == {"a": 0, "b": 2}


@given(labels)
@settings(max_examples=60, deadline=None)
def test_found_types_have_a_cluster_each_and_meet_the_definition(pairs):
    types, clusters = map(np.array, zip(*pairs))
    n, where = ev.types_found(types, clusters)
    assert n == len(where) == len(set(where.values()))
    by_hand = {}
    for t in set(types):
        for c in set(clusters):
            of_type, in_cluster = types == t, clusters == c
            if 2*(of_type & in_cluster).sum() > max(of_type.sum(), in_cluster.sum()): by_hand[t] = c
    assert where == by_hand and set(where) <= set(ev.types_found(types, clusters, rule="majority")[1])


# ---- t-SNE and k-means

def test_same_seed_same_picture_in_another_process_with_more_threads():
    code = """
import numpy as np
from scvae_nb.evaluate import tsne, kmeans
Z = np.random.default_rng(0).normal(size=(90, 6))
E = tsne(Z, perplexity=10, random_state=3)
print(E.tobytes().hex()[:4000], kmeans(E, 5)[0].tolist(), tsne(Z, 3, perplexity=5).tobytes().hex())
"""
    one, two = (run_python(code, OMP_NUM_THREADS=n) for n in "12")
    assert one == two and len(one) > 4000


def test_another_seed_another_picture():
    a, b = (ev.tsne(Z[:60], perplexity=5, random_state=s) for s in (0, 1))
    assert a.shape == (60, 2) and np.abs(a - b).max() > 1e-3


ODD = {"one feature": Z[:, :1], "half the cells alike": np.maximum(Z - 20, 0),
       "three places": np.repeat(np.eye(3), 30, 0), "tiny": Z*1e-12, "a dead feature": np.c_[Z, np.zeros(180)]}

@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_awkward_latents_still_give_a_picture(odd):
    E = ev.tsne(odd, perplexity=10)
    assert E.shape == (len(odd), 2) and np.isfinite(E).all() and np.ptp(E, axis=0).min() > .1


def test_centroids_are_the_means_of_their_clusters():
    clusters, centroids = ev.kmeans(Z, 6, n_init=5)
    np.testing.assert_allclose(centroids, [Z[clusters == c].mean(0) for c in range(6)], atol=1e-9)
    assert centroids.shape == (6, 5) and clusters.shape == (180,)
    U = np.random.default_rng(0).uniform(size=(3000, 2))              # no clusters at all: slow to settle
    clusters, centroids = ev.kmeans(U, 7, n_init=1)
    np.testing.assert_allclose(centroids, [U[clusters == c].mean(0) for c in range(7)], atol=1e-12)


# ---- input that must be refused

holes = np.where(np.arange(180) == 7, None, y.astype(object))
nan, inf = Z.copy(), Z.copy()
nan[4, 2], inf[4, 2] = np.nan, -np.inf
empty_strings = pd.Series(holes).fillna(np.nan).astype(str).replace("None", "")
first_40 = "all 40 cells have the known type" if len(set(y[:40])) < 2 else "perplexity 40 does not suit 40 cells"

@pytest.mark.parametrize("call, message", [
    (lambda: ev.scores(holes, blob), "known types are missing for 1 of 180 cells, the first at cell 7: "
                                     "label these cells or leave them out"),
    (lambda: ev.scores(pd.Series(y).where(blob > 0).astype("category"), blob), "missing for 60 of 180 cells"),
    (lambda: ev.scores(empty_strings, blob), "the first at cell 7"),
    (lambda: ev.scores(y, blob[:-1]), "179 clusters for 180 cells: give one per cell, in the order of the cells"),
    (lambda: ev.scores(y[:0], blob), "180 clusters for 0 cells"),
    (lambda: ev.scores(y[:1].repeat(9), blob[:9]), "all 9 cells have the known type"),
    (lambda: ev.types_found(y, blob, rule="some"), "rule is 'some': it is 'both' or 'majority'"),
    (lambda: ev.types_found(holes, blob), "known types are missing"),
    (lambda: ev.kmeans(Z[:3], 9), "cannot make 9 clusters of 3 cells at 3 different places: choose k from 1 to 3"),
    (lambda: ev.kmeans(np.ones((50, 2)), 2), "50 cells at 1 different places"),
    (lambda: ev.kmeans(Z, 0), "cannot make 0 clusters"),
    (lambda: ev.kmeans(nan, 3), "NaN or infinite, the first at cell 4, feature 2"),
    (lambda: ev.tsne(Z[:120]), "perplexity 40 does not suit 120 cells, for each cell needs 3 x perplexity others: "
                               "choose one above 0 and at most 39.6"),
    (lambda: ev.tsne(Z[:120], 3), "at most 39.6"),
    (lambda: ev.tsne(Z, perplexity=-1), "perplexity -1"),
    (lambda: ev.tsne(Z, perplexity=float("nan")), "perplexity nan"),
    (lambda: ev.tsne(Z, 1), "n_components is 1"),
    (lambda: ev.tsne(nan), "1 values that are NaN or infinite, the first at cell 4, feature 2"),
    (lambda: ev.tsne(inf), "the first at cell 4, feature 2"),
    (lambda: ev.tsne(np.zeros((200, 6))), "the latent is collapsed: all 200 cells have the same 6 values"),
    (lambda: ev.tsne(np.full((200, 6), .1, "float32"), 3), "the latent is collapsed"),
    (lambda: ev.tsne(.1 + 1e-10*Z), "the latent is collapsed"),
    (lambda: ev.tsne(Z[0]), "shape (5,): give one row per cell"),
    (lambda: ev.tsne(Z[:0]), "shape (0, 5)"),
    (lambda: ev.tsne([["x", "y"]]), "not a matrix of numbers"),
    (lambda: ev.evaluate(Z, y[:9]), "9 labels for 180 cells"),
    (lambda: ev.evaluate(Z, holes), "labels are missing for 1 of 180 cells"),
    (lambda: ev.evaluate(Z[:8], y[:8], k=9), "cannot make 9 clusters of 8 cells"),
    (lambda: ev.evaluate(Z[:40], y[:40], k=2), first_40),
    (lambda: ev.plot_embedding(Z, y), "has 5 columns, and this picture needs 2"),
    (lambda: ev.plot_3d(Z[:, :2], y), "needs 3: see tsne(Z, n_components=3)"),
    (lambda: ev.plot_embedding(Z[:, :2], y[1:]), "179 labels for 180 cells"),
    (lambda: ev.plot_clusters(Z[:, :2], y, blob[1:]), "179 clusters for 180 cells"),
    (lambda: ev.plot_spikes(Z, y), "lie between 0 and 1"),
    (lambda: ev.plot_gene_effects(Z[:2], ["CD14"]), "1 gene names for 5 genes"),
    (lambda: ev.plot_scores(pd.DataFrame(dict(nmi=[1.]))), "no column 'ari': they have ['nmi']"),
    (lambda: ev.plot_history({}), "the history is empty"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError) as e: call()
    assert message in str(e.value)


# ---- pictures

NINE = ["Naive CD4 T", "Memory CD4 T", "CD14+ Mono", "B", "CD8 T", "FCGR3A+ Mono", "NK", "DC", "Platelet"]

@given(st.sets(st.sampled_from(NINE), min_size=1).flatmap(lambda s: st.permutations(sorted(s))))
@settings(max_examples=30, deadline=None)
def test_a_type_keeps_its_colour(some):
    whole = look.palette(NINE)
    assert len(set(whole.values())) == 9 and look.palette(some) == {t: whole[t] for t in some}
    assert list(look.palette(some)) == [t for t in whole if t in some]


def colours(ax):
    "Colour -> number of points."
    clouds = [c for c in ax.collections if len(c.get_offsets()) > 1]
    return {to_hex(c.get_facecolor()[0]).upper(): len(c.get_offsets()) for c in clouds}

def test_types_have_the_same_colour_in_every_picture(judged):
    want = {c: (y == t).sum() for t, c in look.palette(y).items()}
    E = judged.embedding
    assert colours(ev.plot_embedding(E, y)) == want
    left, right, *_ = ev.plot_clusters(E, y, judged.clusters, judged.centroids, title="t").axes
    assert colours(left) == colours(right) == want                    # perfect clusters: both sides agree
    assert {t.marker.color: len(t.x) for t in ev.plot_3d(np.c_[E, E[:, 0]], y).figure.data} == want
    assert all(colours(a) == want for a in ev.plot_embeddings({"a": E, "b": E, "c": E}, y).axes if a.get_visible())
    bodies = ev.plot_latent(Z, y).axes[0].collections[:4]
    assert [to_hex(b.get_facecolor()[0]).upper() for b in bodies] == list(look.palette(y).values())


def test_cells_without_a_type_are_grey(judged):
    ax = ev.plot_embedding(judged.embedding, holes, names=True)
    assert ax.get_legend().get_texts()[-1].get_text() == "unlabelled  (1)"
    assert look.palette(holes)["unlabelled"] == look.GREY


def test_a_cluster_without_a_majority_is_grey(judged):
    E = judged.embedding
    even = np.arange(180) % 2 == 0
    clusters = np.where((blob < 2) & even | (blob == 3), 0, 1)        # 0: 30 B, 25 NK, 30 DC; 1: 30 B, 25 NK, 40 CD8 T
    right = ev.plot_clusters(E, y, clusters).axes[1]
    assert set(colours(right)) == {look.GREY}
    assert right.get_title(loc="left") == "2 clusters: 0 of 4 types found"
    at = {t.get_text(): t.get_position() for t in right.texts}        # without centroids: in the middle of the cells
    for c in range(2): np.testing.assert_allclose(at[str(c)], np.median(E[clusters == c], axis=0))


def test_contingency_table_and_its_picture_count_every_cell(judged):
    assert ev.contingency(y, judged.clusters).to_numpy().sum() == 180
    ax = ev.plot_contingency(y, judged.clusters)
    assert sum(int(t.get_text()) for t in ax.texts if t.get_text().isdigit()) == 180 and len(ax.patches) == 4


def marks(panel, shape): return [line.get_xdata().tolist() for line in panel.lines if line.get_marker() == shape]

def test_scores_are_shown_beside_published_ones():
    one = dict(model="a", nmi=.5, ari=.6, homogeneity=.7, completeness=.8)
    df = pd.DataFrame([one, one | dict(nmi=.6), one | dict(nmi=.9), one | dict(model="b")])
    ax = ev.plot_scores(df, pd.DataFrame(dict(nmi=[.8], ari=[.6]), index=["a"]))
    nmi, ari, *others = ax.child_axes
    assert [t.get_text() for t in nmi.texts] == ["0.600", "0.500"]    # medians, a and b
    assert marks(nmi, "None") == [[.5, .9], [.5, .5]]                 # ranges
    assert marks(nmi, "o") == [[.6], [.5]]
    assert marks(nmi, "D")[0] == [.8] and np.isnan(marks(nmi, "D")[1])
    assert marks(ari, "D")[0] == [.6] and marks(ari, "o") == [[.6], [.6]]
    assert np.isnan([marks(panel, "D") for panel in others]).all()
    assert [t.get_text() for t in nmi.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["median", "range of runs", "published"]


def test_scores_of_a_model_without_any_leave_its_row_empty():
    df = pd.DataFrame(dict(model=["vae", "vsc"], nmi=[.5, np.nan], ari=[.4, .3]))
    ax = ev.plot_scores(df, columns=("nmi", "ari"))
    ax.figure.canvas.draw()
    assert [[t.get_text() for t in panel.texts] for panel in ax.child_axes] == [["0.500"], ["0.400", "0.300"]]
    dots = [line.get_color() for line in ax.child_axes[1].lines if line.get_marker() == "o"]
    assert dots == [look.MODEL_COLOURS["vae"], look.MODEL_COLOURS["vsc"]]


@pytest.mark.parametrize("n_latent", [1, 5, 6, 13])
def test_any_number_of_features_can_be_drawn(n_latent):
    W = np.random.default_rng(0).normal(size=(180, n_latent))
    for fig in (ev.plot_latent(W, y), ev.plot_gene_effects(W.T[:, :20], [f"g{i}" for i in range(20)])):
        fig.canvas.draw()
        assert sum(a.get_visible() for a in fig.axes) == n_latent
    ax = ev.plot_spikes(1/(1 + np.exp(-W)), y)
    ax.figure.canvas.draw()
    assert len([t for t in ax.texts]) == 4*n_latent


def test_pictures_leave_matplotlib_as_it_was(judged, tmp_path):
    before = plt.rcParams.copy()
    ev.plot_embedding(judged.embedding, y, ax=plt.subplots()[1]).figure.savefig(tmp_path/"a.png")
    ev.plot_history(dict(loss=[3., 2.], kl=[1., 2.])).savefig(tmp_path/"b.png")
    assert plt.rcParams == before and all(p.stat().st_size > 5000 for p in tmp_path.iterdir())


def test_three_d_page_stands_alone_and_is_never_half_written(judged, tmp_path, monkeypatch):
    fig = ev.plot_3d(np.c_[judged.embedding, judged.embedding[:, 0]], y)
    assert fig._repr_html_() == fig._repr_html_() and len(fig._repr_html_()) < 40_000
    page = ev.write_3d(fig, tmp_path/"3d.html")
    whole = page.read_text()
    assert "<script src=" not in whole and "https://cdn.plot.ly/plotly" not in whole and "B (60)" in whole
    def full(*a): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"): ev.write_3d(fig, page)
    assert os.listdir(tmp_path) == ["3d.html"] and page.read_text() == whole


def test_figures_appear_in_a_notebook_whose_first_figure_is_ours():
    "The notebook's backend wakes up within `style()`; what it sets for itself must outlive that."
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
from scvae_nb.evaluate import plot_history
plot_history(dict(loss=[2., 1.]))
import matplotlib
print(matplotlib.is_interactive())
"""
    assert run_python(code, MPLBACKEND="module://matplotlib_inline.backend_inline").endswith("True")


def test_evaluation_knows_no_model():
    code = """
import sys, scvae_nb.evaluate
print(sorted(m for m in sys.modules if m.startswith("scvae_nb.")), "torch" in sys.modules)
"""
    modules = [f'scvae_nb.{m}' for m in ('checks', 'evaluate', 'files', 'guards', 'look')]
    assert run_python(code) == f'{modules} False'
