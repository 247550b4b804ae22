"Data from outside: broken files, a server that misbehaves, values in the wrong place, and the report's own cells."
import errno, gzip, hashlib, http.server, io, random, re, signal, socket, subprocess, sys
import tarfile, tempfile, threading, tracemalloc
from pathlib import Path

import anndata as ad, igraph, numpy as np, pandas as pd, pytest, scanpy as sc, scipy.sparse as sp
from hypothesis import given, settings, strategies as st
from scipy.io import mmwrite
from sklearn.metrics import adjusted_rand_score

from scvae_nb import data
from scvae_nb.checks import *
from scvae_nb.files import *
from scvae_nb.data import *

NAME = 'pbmc3k_filtered_gene_bc_matrices.tar.gz'
COUNTS = np.random.default_rng(0).poisson(.8, (8, 6)).astype(np.float32)
COUNTS[:, 0] = 2
CELLS, GENES = [f'cell-{i}' for i in range(8)], ['CD14', 'LYZ', 'MS4A1', 'PPBP', 'GNLY', 'MT-CO1']


def small(X=COUNTS, genes=GENES, cells=CELLS):
    return ad.AnnData(sp.csr_matrix(X, dtype=np.float32), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))


def members(folder='filtered_gene_bc_matrices/hg19'):
    mtx = io.BytesIO()
    mmwrite(mtx, sp.coo_matrix(COUNTS.T.astype(int)))
    return {f'{folder}/matrix.mtx': mtx.getvalue(), f'{folder}/barcodes.tsv': '\n'.join(CELLS).encode(),
            f'{folder}/genes.tsv': '\n'.join(f'ENSG{i}\t{g}' for i, g in enumerate(GENES)).encode()}


def pack(path, files, link=None):
    "A tar.gz of `{name: bytes}`, with a symbolic link `(name, target)` if asked"
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in files.items():
            m = tarfile.TarInfo(name)
            m.size = len(content)
            tar.addfile(m, io.BytesIO(content))
        if link:
            m = tarfile.TarInfo(link[0])
            m.type, m.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(m)
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    "A folder with the same cells in every form; temporary files go to a folder beside it, so that leftovers show"
    d, tmp = tmp_path/'data', tmp_path/'tmp'
    for p in (d/'run', tmp): p.mkdir(parents=True)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp))
    small().write_h5ad(d/'cells.h5ad')
    for name, content in members('run').items(): (d/name).write_bytes(content)
    small().to_df().to_csv(d/'cells.csv')
    small().to_df().T.to_csv(d/'genes.tsv.gz', sep='\t')
    pack(d/'cells.tar.gz', members())
    before = {p: p.stat().st_mtime_ns for p in d.rglob('*')}
    yield d
    assert not list(tmp.iterdir()), 'something was left among the temporary files'
    after = {p: p.stat().st_mtime_ns for p in before if p.exists() and not p.name.startswith('broken')}
    assert after == before, 'an input file was touched'


def says(f, *words):
    "`f()` raises a `DataError` with all the words"
    with pytest.raises(DataError) as e: f()
    for w in words: assert w in str(e.value), f'{w!r} is not in {e.value}'
    return str(e.value)


# -- reading --

@pytest.mark.parametrize('name', ['cells.h5ad', 'run', 'cells.tar.gz', 'cells.csv', 'genes.tsv.gz'])
def test_every_form_gives_the_same(files, name, capsys):
    a = load(files/name, rows='genes' if name == 'genes.tsv.gz' else 'cells')
    np.testing.assert_array_equal(a.X.toarray(), COUNTS)
    assert (list(a.obs_names), list(a.var_names)) == (CELLS, GENES)
    assert isinstance(a.X, sp.csr_matrix) and a.X.dtype == np.float32 and a.X.has_canonical_format
    printed = capsys.readouterr().out
    for words in (f'{name}: 8 cells x 6 genes', 'counts up to', 'float32, CSR'): assert words in printed


def test_missing_file(files):
    says(lambda: load(files/'nowhere.h5ad'), 'nowhere.h5ad', 'no such file', 'Check the spelling')


def test_unknown_kind(files):
    (files/'broken.docx').write_bytes(b'text')
    says(lambda: load(files/'broken.docx'), 'broken.docx', 'not a kind of file', '.h5ad')


def copy_run(files, to, without=()):
    to.mkdir()
    for p in (files/'run').iterdir():
        if p.name not in without: (to/p.name).write_bytes(p.read_bytes())


@pytest.mark.parametrize('name', ['cells.h5ad', 'cells.tar.gz', 'genes.tsv.gz', 'cells.csv', 'run/matrix.mtx'])
@pytest.mark.parametrize('how', ['half', 'nothing', 'garbage'])
def test_truncated_and_corrupt(files, name, how):
    content = (files/name).read_bytes()
    content = {'half': content[:len(content)//2], 'nothing': b'', 'garbage': b'\x00\x81garbage\xff' * 50}[how]
    if name == 'run/matrix.mtx':
        broken = files/'broken_run'
        copy_run(files, broken)
        (broken/'matrix.mtx').write_bytes(content)
        place = 'matrix.mtx'
    else:
        broken = files/f'broken.{name.split(".", 1)[1]}'
        broken.write_bytes(content)
        place = broken.name
    message = says(lambda: load(broken, verbose=False), place)
    assert re.search('fetch|export|empty|cut short|separator', message), message


def test_h5ad_whose_inside_is_damaged(files):
    import h5py
    bent = files/'broken.h5ad'
    bent.write_bytes((files/'cells.h5ad').read_bytes())
    with h5py.File(bent, 'r+') as f: f['X/indices'][0] = 4711   # a gene that is not there
    says(lambda: load(bent, verbose=False), 'broken.h5ad', 'Fetch or export the file again')
    with h5py.File(bent, 'r+') as f: del f['X']
    says(lambda: load(bent, verbose=False), 'broken.h5ad', 'has no X', 'adata.X')


@pytest.mark.parametrize('lose', ['matrix.mtx', 'barcodes.tsv', 'genes.tsv'])
def test_10x_folder_lacks_a_file(files, lose):
    copy_run(files, files/'broken', without=[lose])
    says(lambda: load(files/'broken', verbose=False), 'broken', lose)


def test_10x_files_of_different_runs(files):
    copy_run(files, files/'broken')
    (files/'broken/barcodes.tsv').write_text('\n'.join(CELLS[:-1]))
    says(lambda: load(files/'broken', verbose=False),
         'barcodes.tsv: 7 names, but matrix.mtx has 8 columns', 'fetch them again')


def test_newer_cell_ranger(files):
    (files/'broken_new').mkdir()
    features = '\n'.join(f'ENSG{i}\t{g}\tGene Expression' for i, g in enumerate(GENES)).encode()
    for name, content in members('').items():
        name = name.strip('/').replace('genes', 'features')
        if name == 'features.tsv': content = features
        (files/'broken_new'/f'{name}.gz').write_bytes(gzip.compress(content))
    np.testing.assert_array_equal(load(files/'broken_new', verbose=False).X.toarray(), COUNTS)


@pytest.mark.parametrize('filtered', [True, False], ids=['with data_filter', 'as Python 3.10.0'])
@pytest.mark.parametrize('evil', ['../outside.txt', '/tmp/scvae_nb_outside.txt', 'a/../../outside.txt'])
def test_tar_member_outside(files, evil, filtered, monkeypatch):
    if not filtered: monkeypatch.delattr(tarfile, 'data_filter', raising=False)
    pack(files/'broken.tar.gz', {**members(), evil: b'boo'})
    says(lambda: load(files/'broken.tar.gz'), 'broken.tar.gz', repr(evil), 'points outside', 'nothing was unpacked')
    assert not list(files.parent.rglob('outside.txt')) and not Path('/tmp/scvae_nb_outside.txt').exists()


def test_tar_with_a_link(files):
    pack(files/'broken.tar.gz', members(), link=('passwd', '/etc/passwd'))
    says(lambda: load(files/'broken.tar.gz'), "'passwd' is a link", 'nothing was unpacked')


def test_good_tar_without_the_filter(files, monkeypatch):
    real = tarfile.TarFile.extractall

    def extractall(self, path, **kw):
        if kw: pytest.fail('3.10.0 knows no filter')
        real(self, path)
    monkeypatch.delattr(tarfile, 'data_filter', raising=False)
    monkeypatch.setattr(tarfile.TarFile, 'extractall', extractall)
    np.testing.assert_array_equal(load(files/'cells.tar.gz', verbose=False).X.toarray(), COUNTS)


def test_tar_without_a_matrix(files):
    pack(files/'broken.tar.gz', {'readme.txt': b'nothing here'})
    says(lambda: load(files/'broken.tar.gz'), 'broken.tar.gz', 'no matrix.mtx')


def test_disk_full(files, monkeypatch):
    def full(*args, **kw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(tarfile.TarFile, 'extractall', full)
    says(lambda: load(files/'cells.tar.gz'), 'cells.tar.gz', 'No space left', 'Free some space')


@pytest.mark.parametrize('old, new, words', [
    ('cell-3,', 'cell-3,lots', ("row 'cell-3', column 'CD14'", 'is text where a number should be')),
    ('cell-3,2.0', 'cell-3,', ("row 'cell-3', column 'CD14'", 'missing')),
    ('cell-3,2.0', 'cell-3,NA', ("row 'cell-3', column 'CD14'", 'missing')),
    ('cell-3,2.0', 'cell-3,TRUE', ("row 'cell-3', column 'CD14'",)),
    ('cell-3,2.0', 'cell-3,"2,5"', ("row 'cell-3', column 'CD14': '2,5' is text",)),
    ('cell-3,2.0', 'cell-3,2.0,2.0', ('line 5',)),
    ('cell-3,2.0', 'cell-3,inf', ("cell 'cell-3', gene 'CD14': inf is infinite",)),
    ('CD14,LYZ', 'CD14,CD14', ('gene names that occur more than once: CD14', 'unique_names=True')),
    ('cell-3,', 'cell-2,', ('cell names that occur more than once: cell-2', 'unique_names=True')),
])
def test_csv_faults_are_placed(files, old, new, words):
    text = (files/'cells.csv').read_text()
    assert old in text
    (files/'broken.csv').write_text(text.replace(old, new, 1))
    says(lambda: load(files/'broken.csv', verbose=False), 'broken.csv', *words)


def test_unique_names(files):
    (files/'broken.csv').write_text((files/'cells.csv').read_text().replace('CD14,LYZ', 'CD14,CD14', 1))
    a = load(files/'broken.csv', unique_names=True, verbose=False)
    assert list(a.var_names[:2]) == ['CD14', 'CD14-1']
    np.testing.assert_array_equal(a.X.toarray(), COUNTS)


def test_duplicate_gene_names_in_h5ad(files):
    with pytest.warns(UserWarning): twins = small(genes=['CD14', 'CD14'] + GENES[2:])
    twins.write_h5ad(files/'broken.h5ad')
    says(lambda: load(files/'broken.h5ad', verbose=False),
         'gene names that occur more than once: CD14', 'unique_names=True')


@pytest.mark.parametrize('shape, words', [
    ((1, 6), 'only 1 cell'), ((8, 1), 'only 1 gene'), ((0, 6), 'empty'), ((8, 0), 'empty')])
def test_too_small(files, shape, words):
    a = small()[:shape[0], :shape[1]].copy()
    a.write_h5ad(files/'broken.h5ad')
    says(lambda: load(files/'broken.h5ad', verbose=False), 'broken.h5ad', words)


@pytest.mark.parametrize('rows', ['cells', 'genes'])
def test_csv_in_chunks(tmp_path, rows, monkeypatch):
    "Rows that arrive in many pieces are put together in order"
    X = np.random.default_rng(1).poisson(.3, (300, 40))
    frame = pd.DataFrame(X, [f'c{i}' for i in range(300)], [f'g{i}' for i in range(40)])
    (frame if rows == 'cells' else frame.T).to_csv(tmp_path/'x.csv')
    real = pd.read_csv
    monkeypatch.setattr(pd, 'read_csv', lambda *a, **kw: real(*a, **{**kw, 'chunksize': 7}))
    a = load(tmp_path/'x.csv', rows=rows, verbose=False)
    np.testing.assert_array_equal(a.X.toarray(), X)
    assert list(a.obs_names) == list(frame.index) and list(a.var_names) == list(frame.columns)


# -- values --

places = st.tuples(st.integers(0, 7), st.integers(0, 5))
forms = st.sampled_from(['anndata', 'csr', 'csc', 'array', 'frame'])


def dress(X, form):
    return dict(anndata=small, csr=sp.csr_matrix, csc=sp.csc_matrix, array=np.asarray,
                frame=lambda X: pd.DataFrame(X, CELLS, GENES))[form](X)


FAULTS = [(np.nan, 'not a number'), (np.inf, 'infinite'), (-1, 'below zero'), (1.5, 'not a whole number')]


@settings(max_examples=60, deadline=None)
@given(places, forms, st.sampled_from(FAULTS))
def test_one_wrong_count_is_found_wherever_it_is(place, form, fault):
    value, words = fault
    X = COUNTS.copy()
    assert is_counts(as_matrix(dress(X, form))[0])
    X[place] = value
    i, j = place
    where = f"cell '{CELLS[i]}', gene '{GENES[j]}'" if form in ('anndata', 'frame') else f'row {i}, column {j} '
    says(lambda: check_counts(dress(X, form)), where, words, 'the only such value')
    assert not is_counts(as_matrix(dress(X, form))[0])


@settings(max_examples=30, deadline=None)
@given(places, forms)
def test_log_values_need_one_value_that_is_not_whole(place, form):
    says(lambda: check_log(dress(COUNTS, form)), 'these are counts', 'log_normalize')
    X = COUNTS.copy()
    X[place] = .5
    check_log(dress(X, form))
    X[place] = 25.5
    says(lambda: check_log(dress(X, form)), 'too large for a log value', 'log_normalize')


def test_cells_without_counts():
    X = COUNTS.copy()
    X[[2, 5]] = 0
    says(lambda: log_normalize(small(X)), '2 of 8 cells are without counts', 'cell-2, cell-5', 'quality_control')
    with pytest.raises(DataError, match='are zero'): check_log(0 * COUNTS)


def test_the_wrong_kind_of_values_is_refused_everywhere():
    logs = log_normalize(small())
    for f in (log_normalize, quality, quality_control): says(lambda: f(logs), 'not a whole number', 'layers["counts"]')
    for f in (zscore, check_log): says(lambda: f(small()), 'these are counts')
    says(lambda: cell_types(small()), "no layer 'counts'")
    says(lambda: as_matrix(pd.DataFrame({'a': [1, 2], 'b': ['x', 3]})), "row 0, column 'b'", "'x' is text")


@pytest.mark.parametrize('labels, words', [
    ('cell_type', "no column 'cell_type'"), (list('abc'), '3 labels for 8 cells'),
    (list('abcabca') + [None], 'the first: cell-7')])
def test_labels(labels, words):
    says(lambda: check_labels(small(), labels), words)


def test_as_matrix_leaves_its_input_alone():
    X = sp.csr_matrix((np.array([3, 0, 1, 1]), [2, 0, 1, 1], [0, 2, 4]), shape=(2, 3))
    M, genes = as_matrix(X)
    assert genes is None and M.dtype == np.float32 and M.nnz == 2 and X.nnz == 4 and X.data.tolist() == [3, 0, 1, 1]
    np.testing.assert_array_equal(M.toarray(), [[0, 0, 3], [0, 2, 0]])
    a = small()
    M, genes = as_matrix(a)
    assert M is a.X and list(genes) == GENES   # in order already: not copied


# -- writing --

WRITER = '''
import signal, sys, time
from scvae_nb.files import write_aside
signal.signal(signal.SIGINT, signal.default_int_handler)   # a job in the background would ignore it
with write_aside(sys.argv[1]) as aside:
    aside.mkdir()
    (aside/'weights').write_text('half')
    print('half-way', flush=True)
    time.sleep(60)
'''


@pytest.mark.parametrize('how, leaves', [(signal.SIGINT, 0), (signal.SIGKILL, 1)], ids=['Ctrl-C', 'killed'])
def test_a_writer_that_is_stopped_replaces_nothing(tmp_path, how, leaves):
    "What was there is whole; only a process that is killed has no time to remove its hidden folder"
    model = tmp_path/'model'
    with write_aside(model) as aside:
        aside.mkdir()
        (aside/'weights').write_text('whole')
    with subprocess.Popen([sys.executable, '-c', WRITER, str(model)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdout.readline() == 'half-way\n'
        writer.send_signal(how)
        assert writer.wait(30) != 0
    assert {p.name: p.read_text() for p in model.iterdir()} == {'weights': 'whole'}
    assert len([p for p in tmp_path.iterdir() if p != model]) == leaves


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').touch()
    for place in (tmp_path/'file/below', tmp_path/'file/deep/below'):
        with pytest.raises(OSError), write_aside(place) as aside: aside.write_text('lost')
    assert [p.name for p in tmp_path.iterdir()] == ['file']


# -- numbers --

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(.02, 2), st.sampled_from([1., 3., 10.]))
def test_zscore_equals_the_dense_way(seed, rate, clip):
    X = np.log1p(np.random.default_rng(seed).poisson(rate, (30, 12))).astype(np.float32)
    X[0, 0] = .5
    a = zscore(ad.AnnData(sp.csr_matrix(X)), max_value=clip, kind='log values')
    x = X.astype(float)
    sd = x.std(0, ddof=1)
    z = np.minimum((x - x.mean(0)) / np.where(sd > 0, sd, 1), clip)
    np.testing.assert_allclose(dense_zscore(a), z, rtol=1e-4, atol=1e-4)
    assert ((a.layers['zscore'].toarray() != 0) <= (X != 0)).all()


def test_clipping_is_as_scanpy_has_it_above():
    X = np.zeros((400, 3), np.float32)
    X[0, 0], X[:, 1], X[:, 2] = 5.5, np.random.default_rng(0).random(400), .5
    reference = sc.pp.scale(ad.AnnData(X.copy()), max_value=10, copy=True).X
    z = dense_zscore(zscore(ad.AnnData(sp.csr_matrix(X))))
    assert z[0, 0] == 10 and (z[:, 2] == 0).all()
    np.testing.assert_allclose(z, reference, rtol=1e-4, atol=1e-4)


def test_log_normalize_keeps_counts_and_input():
    a = small()
    out = log_normalize(a, scale_factor=100)
    np.testing.assert_allclose(out.X.toarray(), np.log1p(100 * COUNTS / COUNTS.sum(1, keepdims=True)), rtol=1e-5)
    for kept in (a.X, out.layers['counts']): np.testing.assert_array_equal(kept.toarray(), COUNTS)


def test_quality_control_counts_every_reason():
    a = small()
    out = quality_control(a, min_cells=1, min_genes=2, max_genes=6, max_mito=101.)
    n = (COUNTS > 0).sum(1)
    q = out.uns['quality_control']
    assert (q['few_genes'], q['many_genes'], q['mitochondrial']) == ((n <= 2).sum(), (n >= 6).sum(), 0)
    assert list(out.obs_names) == [c for c, k in zip(CELLS, n) if 2 < k < 6]
    says(lambda: quality_control(a, min_cells=1, min_genes=1, max_mito=0.), 'would drop each of the 8 cells', 'Widen')
    says(lambda: quality_control(a), 'no cell shows 200 genes', 'Lower min_genes')


@pytest.fixture
def noise():
    "Cells without any types, their graph, and its modularity"
    X = np.random.default_rng(0).normal(size=(200, 4))
    graph = snn_graph(X)
    S = sp.triu(graph, 1).tocoo()
    g = igraph.Graph(n=200, edges=list(zip(S.row, S.col)))

    def modularity(m): return g.modularity(m, weights=S.data, resolution=.5)
    return X, graph, modularity


def test_louvain_keeps_the_best_start(noise):
    _, graph, modularity = noise

    def one(seed, polish): return modularity(louvain(graph, n_starts=1, random_state=seed, polish=polish))
    for polish in (False, True):
        runs = [one(s, polish) for s in range(5)]
        assert len(set(runs)) > 1
        assert modularity(louvain(graph, n_starts=5, polish=polish)) == max(runs)
    for s in range(5): assert one(s, True) >= one(s, False)


def test_louvain_leaves_igraph_alone(noise):
    X, graph, _ = noise
    twice = [louvain(graph, n_starts=2, random_state=3) for _ in range(2)]
    np.testing.assert_array_equal(*twice)

    def draw():
        random.seed(5)
        return igraph.Graph.Erdos_Renyi(40, .1).get_edgelist()
    before = draw()
    louvain(graph, n_starts=1)
    assert draw() == before
    says(lambda: snn_graph(X[:10]), '10 cells are fewer than the k=20', 'Lower k')


def test_demo_needs_no_network(monkeypatch):
    def refuse(*args, **kw): raise AssertionError('the network was touched')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    a = demo()
    assert a.shape == (700, 765) and isinstance(a.X, sp.csr_matrix) and a.X.dtype == np.float32 and not a.layers
    assert a.obs['cell_type'].value_counts()['Dendritic'] == 240 and a.obs['cell_type'].nunique() == 10
    check_log(a)


# -- PBMC3k: where it is looked for --

@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "No data folder, an empty cache, no waiting between attempts; returns the cache"
    monkeypatch.delenv('SCVAE_NB_DATA', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setattr('pooch.core.time.sleep', lambda s: None)
    return tmp_path/'cache'/'scvae_nb'


@pytest.fixture
def server(nowhere, tmp_path, monkeypatch):
    "A server of our own in place of 10x Genomics; `answers` holds what it says, one after the other"
    class Handler(http.server.BaseHTTPRequestHandler):
        answers, hits = [], 0
        def do_GET(self):
            status, body = Handler.answers[min(Handler.hits, len(Handler.answers) - 1)]
            Handler.hits += 1
            self.send_response(status)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args): pass
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, 'PBMC3K_URL', f'http://127.0.0.1:{s.server_port}/{NAME}')
    Handler.content = pack(tmp_path/'small.tar.gz', members()).read_bytes()
    monkeypatch.setattr(data, 'PBMC3K_MD5', hashlib.md5(Handler.content).hexdigest())
    yield Handler
    s.shutdown()
    s.server_close()


def left_in(cache): return [p.name for p in cache.rglob('*') if p.is_file()]


def test_no_network(nowhere, monkeypatch):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        monkeypatch.setattr(data, 'PBMC3K_URL', f'http://127.0.0.1:{s.getsockname()[1]}/{NAME}')   # nobody listens
        says(lambda: pbmc3k(verbose=False),
             'no network connection to 127.0.0.1', data.PBMC3K_URL, 'data_dir=', 'SCVAE_NB_DATA')
    assert left_in(nowhere) == []


def test_wrong_checksum(server, nowhere):
    server.answers = [(200, b'not what was published')]
    md5 = hashlib.md5(b'not what was published').hexdigest()
    says(lambda: pbmc3k(verbose=False), NAME, 'not the published file', data.PBMC3K_MD5, md5, 'Nothing half downloaded')
    assert server.hits == 4 and left_in(nowhere) == []


def test_server_says_no(server, nowhere):
    server.answers = [(404, b'')]
    says(lambda: pbmc3k(verbose=False), 'could not be downloaded', '404', data.PBMC3K_URL)
    assert left_in(nowhere) == []


def test_download_is_tried_again_then_cached(server, nowhere, monkeypatch):
    server.answers = [(503, b''), (200, server.content[:100]), (200, server.content)]
    holds = dict(cells=8, genes=6, entries=int((COUNTS > 0).sum()), molecules=int(COUNTS.sum()))
    monkeypatch.setattr(data, 'PBMC3K_HOLDS', holds)
    for _ in range(2): np.testing.assert_array_equal(pbmc3k(raw=True, verbose=False).X.toarray(), COUNTS)
    assert server.hits == 3 and left_in(nowhere) == [NAME]
    monkeypatch.setattr(data, 'PBMC3K_HOLDS', dict(cells=2700, genes=6))
    says(lambda: pbmc3k(verbose=False), 'this is not PBMC3k', '8 cells instead of 2,700')


def test_download_disk_full(server, nowhere, monkeypatch):
    server.answers = [(200, server.content)]
    def full(*args, **kw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('pooch.core.shutil.move', full)
    says(lambda: pbmc3k(verbose=False), 'could not be downloaded to', str(nowhere), 'No space left')
    assert left_in(nowhere) == []


def test_order_of_the_places(server, nowhere, tmp_path, monkeypatch):
    server.answers = [(200, server.content)]
    monkeypatch.setattr(data, 'PBMC3K_HOLDS', dict(cells=8))
    env, mine = tmp_path/'env', tmp_path/'mine'
    for d in (env, mine/'pbmc3k'): d.mkdir(parents=True)
    monkeypatch.setenv('SCVAE_NB_DATA', str(env))
    message = says(lambda: pbmc3k(mine),   # a named folder is meant
                   str(mine/NAME), str(mine/'pbmc3k'/NAME), 'leave data_dir out')
    assert server.hits == 0 and str(env) not in message
    pbmc3k(raw=True, verbose=False)                                     # an empty $SCVAE_NB_DATA: on to the download
    assert server.hits == 1
    (mine/'pbmc3k'/NAME).write_bytes(server.content)
    (env/NAME).write_bytes(b'broken')
    assert pbmc3k(mine, raw=True, verbose=False).n_obs == 8              # data_dir before the variable
    says(lambda: pbmc3k(raw=True, verbose=False), str(env/NAME), 'cannot be read as a tar archive')


# -- PBMC3k itself --

@pytest.fixture(scope='module')
def pbmc(pbmc3k_data):
    "PBMC3k, raw and processed, and the most memory (bytes) that processing took on top of the raw counts"
    raw = pbmc3k(pbmc3k_data, raw=True, verbose=False)
    tracemalloc.start()
    cells = cell_types(log_normalize(quality_control(raw)))
    zscore(cells)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return raw, cells, peak


def test_pbmc3k_is_what_the_report_has(pbmc):
    raw, cells, _ = pbmc
    assert raw.shape == (2700, 32738) and cells.shape == (2638, 13714)
    for M in (cells.X, cells.layers['counts']): assert isinstance(M, sp.csr_matrix) and M.dtype == np.float32
    q = cells.uns['quality_control']
    assert (q['few_genes'], q['many_genes'], q['mitochondrial']) == (0, 5, 57)
    np.testing.assert_allclose(np.expm1(cells.X).sum(1), 10_000, rtol=1e-4)
    assert (cells.layers['counts'] != raw[cells.obs_names, cells.var_names].X).nnz == 0
    assert cells.layers['zscore'].nnz == cells.X.nnz


def test_pbmc3k_types_agree_with_seurat(pbmc, pbmc3k_data):
    cells = pbmc[1]
    reference = pd.read_csv(pbmc3k_data/'pbmc3k'/'seurat_labels.csv', index_col='barcode')['cell_type']
    assert set(reference.index) == set(cells.obs_names)
    reference = reference.loc[cells.obs_names]
    ari = adjusted_rand_score(reference, cells.obs['cell_type'])
    assert ari >= .93, f'ARI {ari:.3f}'
    assert cells.obs['cluster'].nunique() == 9 and set(cells.obs['cell_type']) == set(reference) == set(MARKERS)
    same_name = reference.to_numpy() == cells.obs['cell_type'].astype(str).to_numpy()
    assert same_name.mean() > .95   # the names too, not only the partition


def test_pbmc3k_stays_sparse(pbmc):
    dense = 2638 * 13714 * 4
    assert pbmc[2] < dense, f'{pbmc[2]/1e6:.0f} MB; a dense float32 matrix has {dense/1e6:.0f}'


def test_pbmc3k_repacked_or_damaged(pbmc3k_data, tmp_path):
    source = next(pbmc3k_data.rglob(NAME))
    assert data.find_pbmc3k(pbmc3k_data) == source   # `pbmc` was read from it, whatever its checksum
    content = source.read_bytes()
    (tmp_path/NAME).write_bytes(content[:len(content)//2])
    says(lambda: pbmc3k(tmp_path, verbose=False), NAME, 'cannot be read as a tar archive', 'cut short')


def test_pbmc3k_clusters_do_not_hang_on_the_seed(pbmc, pbmc3k_data):
    "Another seed, or coordinates that differ a little as they would on another machine: as good a partition"
    cells = pbmc[1]
    reference = pd.read_csv(pbmc3k_data/'pbmc3k'/'seurat_labels.csv', index_col='barcode')['cell_type']
    reference, X = reference.loc[cells.obs_names], cells.obsm['X_pca']
    for seed in (100, 200):
        noise = np.random.default_rng(seed).normal(size=X.shape)
        communities = louvain(snn_graph(X * (1 + 1e-4 * noise)), random_state=seed)
        assert communities.max() == 8 and adjusted_rand_score(reference, communities) >= .93


def test_pbmc3k_twice_is_the_same(pbmc):
    again = pbmc[1].copy()
    for c in ('cluster', 'cell_type'): del again.obs[c]
    cell_types(again)
    for c in ('cluster', 'cell_type'): assert list(again.obs[c]) == list(pbmc[1].obs[c])


def test_pbmc3k_can_be_written_and_read(pbmc, tmp_path, capsys):
    pbmc[1].write_h5ad(tmp_path/'pbmc.h5ad')
    back = load(tmp_path/'pbmc.h5ad')
    assert (back.X != pbmc[1].X).nnz == 0 and list(check_labels(back)) == list(pbmc[1].obs['cell_type'])
    assert '2,638 cells x 13,714 genes, 93.8% zeros, log values' in capsys.readouterr().out


def test_the_package_never_reads_the_labels():
    for p in Path(data.__file__).parent.glob('*.py'): assert 'seurat_labels' not in p.read_text(), p.name

# --- cells that people brought

def decimal_counts(factor=.93, mean=.6):
    "Counts from which ambient RNA was taken off"
    rng = np.random.default_rng(0)
    counts = (1 + rng.poisson(mean*rng.lognormal(0, .7, (100, 1)), (100, 80)))*factor
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('mean', [.6, 15.])
def test_decimal_counts_have_a_way_on(mean):
    from scvae_nb.ae import DeepAE
    from scvae_nb.data import as_log_values, log_normalize, round_counts
    cells = decimal_counts(mean=mean)
    with pytest.raises(ValueError, match='log_normalize'): DeepAE(max_epochs=1).fit(cells)
    for values in (log_normalize(cells), as_log_values(cells)):
        np.testing.assert_allclose(np.expm1(values.X.toarray()).sum(1), 1e4, rtol=1e-3)
    assert (round_counts(cells).X.toarray() == np.rint(cells.X.toarray())).all()

@pytest.mark.filterwarnings('ignore')
def test_the_same_cells_on_another_scale_do_not_move():
    import scanpy
    from scvae_nb.ae import DeepAE
    from scvae_nb.data import log_normalize
    counts = ad.AnnData(sp.csr_matrix(np.random.default_rng(0).poisson(2., (80, 60)).astype(np.float32)))
    median = counts.copy()
    scanpy.pp.normalize_total(median)
    scanpy.pp.log1p(median)
    model = DeepAE(max_epochs=3, progress=False, random_state=0).fit(median)
    for other in (counts, log_normalize(counts)):
        np.testing.assert_allclose(model.transform(other), model.transform(median), rtol=1e-3, atol=1e-4)

@pytest.mark.filterwarnings('ignore')
def test_own_limits_drop_no_cell():
    from scvae_nb.data import OWN_LIMITS, quality_control
    rng = np.random.default_rng(0)
    rich = ad.AnnData(sp.csr_matrix(rng.poisson(2., (40, 4000)).astype(np.float32)))
    assert quality_control(rich, **OWN_LIMITS).n_obs == 40
    with pytest.raises(ValueError, match='max_genes'): quality_control(rich)
