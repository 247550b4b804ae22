"The `scvae-nb` command, run as a user would."
import inspect, os, re, signal, subprocess, sys, time
from pathlib import Path
import anndata as ad, h5py, nbformat, numpy as np, pandas as pd, pytest, scipy.sparse as sp
from conftest import ROOT
from scvae_nb import cli as commands
from scvae_nb.cli import main
from scvae_nb.data import demo, log_normalize
from scvae_nb.estimator import LatentModel
from scvae_nb.files import load

reads_more = pytest.mark.skipif('layer' not in inspect.signature(load).parameters, reason='load has no layer=, raw=')
by_name = pytest.mark.skipif(not hasattr(LatentModel, 'set_input'), reason='models do not take genes by name')

def environment(): return os.environ | dict(OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1')

def command(*args): return [sys.executable, '-m', 'scvae_nb', *map(str, args)]

def cli(*args, cwd=None):
    return subprocess.run(command(*args), capture_output=True, text=True, cwd=cwd, env=environment(), timeout=600)

@pytest.fixture
def scvae_nb(capsys):
    "The command within this process, which saves importing everything anew: status, output, errors"
    def run(*args):
        status = 0
        try: main([str(a) for a in args])
        except SystemExit as end: status = end.code
        streams = capsys.readouterr()
        assert 'Traceback' not in streams.err
        return status, streams.out, streams.err
    return run

@pytest.fixture(scope='module')
def cells():
    "60 cells x 40 genes: counts, three types that are numbers"
    X = np.random.default_rng(0).poisson(1., (60, 40)) + 1
    obs = pd.DataFrame({'leiden': np.arange(60) % 3}, index=[f'c{i}' for i in range(60)])
    return ad.AnnData(sp.csr_matrix(X.astype(np.float32)), obs, pd.DataFrame(index=[f'g{j}' for j in range(40)]))

QUICK = ['--model', 'ae', '--max-epochs', 1]

# --- the report ---

SCRIPT = '<script>alert(1)<_script> $x^$ `@fig-x` *.h5ad'

@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "The report on cells of one's own: a file name that is a script and a formula, types that are numbers, genes with $"
    folder = tmp_path_factory.mktemp('report')
    cells = demo()
    cells.obs['leiden'] = cells.obs['cell_type'].cat.codes.to_numpy()
    cells.var_names = [f'${g}^$' if i % 2 else g for i, g in enumerate(cells.var_names)]
    cells.write_h5ad(folder/SCRIPT)
    args = '--data', SCRIPT, '--labels', 'leiden', '--max-epochs', 5, '--seeds', 2, '--out', folder/'demo'
    return folder, cli('report', *args, cwd=folder)

def test_report(report):
    folder, done = report
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"The report is in {folder/'demo/report.html'}"
    assert {p.name for p in folder.iterdir()} == {'demo', SCRIPT}
    names = {p.name for p in (folder/'demo').iterdir()}
    assert {'report.html', 'report.ipynb', 'latent.h5ad', 'scores.csv', 'times.csv', 'claims.csv'} <= names
    assert {'tsne.png', 'scores.png', 'spikes.png'} <= names
    assert {'tsne_3d_ae.html', 'tsne_3d_vae.html', 'tsne_3d_vsc.html'} <= names

def test_scores(report):
    scores = pd.read_csv(report[0]/'demo/scores.csv')
    assert list(scores.columns[:7]) == ['model', 'seed', 'nmi', 'ari', 'homogeneity', 'completeness', 'types_found']
    assert list(scores.model) == ['pca', 'ae', 'ae', 'vae', 'vae', 'vsc', 'vsc']
    assert {f'latent_{c}' for c in scores.columns[2:7]} <= set(scores.columns)

def test_latent(report):
    cells = ad.read_h5ad(report[0]/'demo/latent.h5ad')
    for m in ('pca', 'ae', 'vae', 'vsc'):
        assert cells.obsm[f'X_{m}'].shape == (700, 6) and cells.obsm[f'X_{m}_tsne'].shape == (700, 2)
    assert sorted(cells.obs['cell_type'].unique()) == [str(i) for i in range(10)]

def body(report): return (report[0]/'demo/report.html').read_text().split('</script></head>')[-1]

def test_page_stands_alone(report):
    text = (report[0]/'demo/report.html').read_text()
    assert 'src="http' not in text and '<link' not in text               # nothing is fetched
    assert text.count('<figure id="fig-') >= 12 and text.count('data:image/png;base64,') >= 10
    assert 'Plotly.newPlot' in text and text.count('<math') >= 20
    for left in ('[@', '@tbl-', '$$', ':::', '{#', '{=html}', '?</strong>'): assert left not in body(report), left

def test_references_on_the_page(report):
    "Each citation leads to an entry, and each entry was cited"
    cited, listed = (set(re.findall(p, body(report))) for p in ('href="#(ref-[^"]+)"', '<div id="(ref-[^"]+)"'))
    assert cited == listed and len(cited) >= 20

def test_script_in_a_file_name_is_text(report):
    name = SCRIPT.replace('<', '&lt;').replace('>', '&gt;')
    assert re.search(r'computed on <strong>[^<]*' + re.escape(name), body(report))
    assert '<script>alert' not in body(report)

def stub(monkeypatch, error=None):
    "A notebook that trains nothing: it leaves its files, then fails or not"
    def run(folder, parameters):
        (folder/'latent.h5ad').write_text('an hour of work')
        (folder/'report.ipynb').write_text('{}')
        if error: raise error
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# Title')])
    monkeypatch.setattr(commands, 'run_notebook', run)

def test_page_that_fails_leaves_the_work(monkeypatch, tmp_path, scvae_nb):
    stub(monkeypatch)
    (tmp_path/'out').mkdir()
    (tmp_path/'out/report.html').write_text('of another run')
    def fail(*_): raise ValueError('no page today')
    monkeypatch.setattr(commands, 'page', fail)
    status, _, err = scvae_nb('report', '--out', tmp_path/'out')
    assert status == 1 and f"the results are in {tmp_path/'out'}" in err and 'no page today' in err
    assert {p.name for p in (tmp_path/'out').iterdir()} == {'latent.h5ad', 'report.ipynb'}

@pytest.mark.parametrize('error, status', [(KeyError(1), 1), (KeyboardInterrupt(), 130)])
def test_figure_that_fails_leaves_the_work(monkeypatch, tmp_path, scvae_nb, error, status):
    stub(monkeypatch, error)
    (tmp_path/'scores.csv').write_text('of another run')
    code, out, err = scvae_nb('report', '--out', tmp_path)
    assert code == status and str(tmp_path/'unfinished') in out
    if status == 1: assert 'KeyError: 1. This is a fault of scvae-nb' in err   # never a bare number
    assert {p.name for p in (tmp_path/'unfinished').iterdir()} == {'latent.h5ad', 'report.ipynb'}
    assert {p.name for p in tmp_path.iterdir()} == {'scores.csv', 'unfinished'}

def test_own_cells_stay(tmp_path, capsys):
    "More genes than PBMC3k's limit allows: they stay, and what is left out is said"
    from scvae_nb.report import read_data
    rng = np.random.default_rng(0)
    depth, share = rng.lognormal(9.3, .5, 200), rng.dirichlet(np.full(6000, .5))
    obs = pd.DataFrame({'ct': np.where(depth > np.median(depth), 'big', 'small')}, index=[f'c{i}' for i in range(200)])
    own = ad.AnnData(sp.csr_matrix(rng.poisson(depth[:, None]*share).astype(np.float32)), obs)
    own.write_h5ad(tmp_path/'own.h5ad')
    with pytest.warns(UserWarning): kept, _ = read_data(tmp_path/'own.h5ad', 'ct')
    assert kept.n_obs == 200 and '200' in capsys.readouterr().out
    with pytest.warns(UserWarning): limited, _ = read_data(tmp_path/'own.h5ad', 'ct', max_genes=2500)
    assert 0 < limited.n_obs < 100

# --- what is wrong is said before the work, in the words of the command line ---

BAD = {
    'missing file': (lambda d: ['train', d/'no.h5ad'], 'no.h5ad'),
    'report on a missing file': (lambda d: ['report', '--data', d/'no.h5ad'], 'no.h5ad'),
    'unknown model': (lambda d: ['train', 'demo', '--model', 'gan'], 'one of ae, vae, vsc'),
    'n_latent out of range': (lambda d: ['train', 'demo', '--n_latent', 0, '--out', d/'run'], '--n-latent must'),
    'beta out of range': (lambda d: ['train', 'demo', '--beta', -1, '--out', d/'run'], '--beta must'),
    'batch_size out of range': (lambda d: ['train', 'demo', '--batch-size', 0, '--out', d/'run'], '--batch-size must'),
    'epochs out of range': (lambda d: ['report', '--max_epochs', 0, '--out', d/'run'], '--max-epochs 0'),
    'no model': (lambda d: ['embed', 'demo', '--model', d], 'no saved model'),
    'unknown command': (lambda d: ['sing'], "no command 'sing'"),
    'unknown option': (lambda d: ['train', 'demo', '--n-latnet', 3], '--n-latnet'),
    'unknown setting': (lambda d: ['train', 'demo', '--model', 'scvi', '--set', 'n_hiden=9'], 'mean --set n_hidden?'),
    'setting of another type': (lambda d: ['train', 'demo', '--set', 'input_relu=9'], '--set input_relu=9'),
    'setting out of range': (lambda d: ['train', 'demo', '--set', 'head_hidden=0'], '--set head_hidden must'),
    'set twice': (lambda d: ['train', 'demo', '--n-latent', 3, '--set', 'n_latent=4'], 'twice'),
    'no such labels': (lambda d: ['train', 'demo', '--model', 'actinn', '--labels', 'ct'], "--labels 'ct'"),
    'labels missing': (lambda d: ['train', 'demo', '--model', 'actinn'], '--labels'),
    'labels unused': (lambda d: ['train', 'demo', '--labels', 'cell_type'], "--labels 'cell_type'"),
    'no such batch': (lambda d: ['train', 'demo', '--model', 'scvi', '--batch', 'donor'], "--batch 'donor'"),
    'batch unused': (lambda d: 'train demo --model flow --batch cell_type'.split(), '--batch cell_type is no setting'),
    'rows of no file': (lambda d: ['train', 'demo', '--rows', 'genes'], "--rows 'genes'"),
    'limits of no file': (lambda d: ['report', '--max-mito', 9, '--out', d/'run'], '--max-mito'),
    'cells in a file of another kind': (lambda d: ['embed', 'demo', '--out', d/'x.csv'], '.h5ad'),
    'picture of another kind': (lambda d: ['embed', 'demo', '--figure', d/'x.doc'], "x.doc': a picture ends in"),
    'no such way with genes': (lambda d: ['embed', 'demo', '--genes', 'zero'], "--genes 'zero'"),
}

@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, tmp_path, monkeypatch, scvae_nb):
    "Within this process; the next test is from outside"
    if name == 'no such way with genes': main(['train', 'demo', *map(str, QUICK), '--out', str(tmp_path/'run')])
    before = sorted(tmp_path.iterdir())
    args, words = BAD[name]
    monkeypatch.chdir(tmp_path)
    if name == 'no such way with genes': args = lambda d, old=args: [*old(d), '--model', d/'run']
    status, _, err = scvae_nb(*args(tmp_path))
    assert status in (1, 2) and words in err, err
    assert sorted(tmp_path.iterdir()) == before                          # nothing half written

def test_bad_input_from_outside(tmp_path):
    args, words = BAD['missing file']
    done = cli(*args(tmp_path), cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr and 'Traceback' not in done.stderr, done

def test_debug_shows_the_traceback(tmp_path):
    assert 'Traceback' in cli('--debug', 'train', tmp_path/'no.h5ad').stderr

@pytest.mark.parametrize('place', ['run', 'run/history.csv/x', 'below/run'])
def test_out_is_looked_at_before_training(place, tmp_path, monkeypatch, scvae_nb):
    "A file where a folder should be, a folder where a file should be, a file on the way"
    for name in ('run', 'below'): (tmp_path/name).touch()
    if '/x' in place:
        (tmp_path/'run').unlink()
        (tmp_path/place).mkdir(parents=True)
    def prepare(*_): raise AssertionError('the cells were read')
    monkeypatch.setattr(commands, 'for_models', prepare)
    status, _, err = scvae_nb('train', 'demo', '--out', tmp_path/place.split('/history')[0])
    assert status == 1 and 'the cells were read' not in err, err

def test_too_few_cells_for_the_report(tmp_path):
    demo()[:5].copy().write_h5ad(tmp_path/'few.h5ad')
    done = cli('report', '--data', tmp_path/'few.h5ad', '--max_epochs', 1, '--out', tmp_path/'out', cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['few.h5ad']

# --- files as readers have them, and the options for them ---

def latent(folder): return pd.read_csv(folder/'latent.csv', index_col=0)

def test_genes_in_rows(tmp_path, scvae_nb):
    "A row of latent.csv for each of 60 barcodes, not for each of 40 genes"
    rng = np.random.default_rng(0)
    genes = [f'RPL{j}' for j in range(30)] + [f'MT-ND{j}' for j in range(10)]
    barcodes = [''.join(rng.choice(list('ACGT'), 16)) + '-1' for _ in range(60)]
    pd.DataFrame(rng.poisson(1., (40, 60)) + 1, genes, barcodes).to_csv(tmp_path/'counts.csv')
    status, _, err = scvae_nb('train', tmp_path/'counts.csv', '--rows', 'genes', *QUICK, '--out', tmp_path/'run')
    assert status == 0, err
    assert list(latent(tmp_path/'run').index) == barcodes

def other_files(cells, folder):
    "Files that need an option, a word, or neither"
    counts = cells.X.toarray()
    pd.DataFrame(counts, cells.obs_names, cells.var_names).to_csv(folder/'semicolon.csv', sep=';')
    twice = cells.copy()
    twice.var_names = ['g1', *cells.var_names[1:]]
    twice.write_h5ad(folder/'twice.h5ad')
    empty = cells.copy()
    counts[3] = 0
    empty.X = sp.csr_matrix(counts)
    empty.write_h5ad(folder/'empty.h5ad')
    layered = cells.copy()
    layered.layers['counts'], layered.X = layered.X, None
    layered.write_h5ad(folder/'layers.h5ad')
    dense = cells.X.toarray()
    scaled = ad.AnnData((dense - dense.mean(0))/dense.std(0), cells.obs, cells.var)
    scaled.raw = cells
    scaled.write_h5ad(folder/'scaled.h5ad')

NEEDS = {
    'semicolon.csv': (['--sep', ';'], None), 'twice.h5ad': (['--unique-names'], '--unique-names'),
    'layers.h5ad': (['--layer', 'counts'], '--layer'), 'scaled.h5ad': (['--raw'], '--raw')}

@reads_more
@pytest.mark.parametrize('name', NEEDS)
def test_messages_name_options_that_help(name, cells, tmp_path, scvae_nb):
    "Without the option: the cells, or a message that names it; with it: the cells"
    other_files(cells, tmp_path)
    options, told = NEEDS[name]
    status, _, err = scvae_nb('train', tmp_path/name, *QUICK, '--out', tmp_path/'run')
    if told: assert status == 1 and told in err.splitlines()[-1], err
    else: assert status == 0 or '--sep' in err, err
    status, _, err = scvae_nb('train', tmp_path/name, *options, *QUICK, '--out', tmp_path/'run')
    assert status == 0, err
    assert len(latent(tmp_path/'run')) == 60

def test_empty_cells_are_left_out_with_a_word(cells, tmp_path, scvae_nb):
    other_files(cells, tmp_path)
    status, _, err = scvae_nb('train', tmp_path/'empty.h5ad', *QUICK, '--out', tmp_path/'run')
    assert status == 0 and 'note: 1 of 60 cells are without counts' in err
    assert 'c3' not in latent(tmp_path/'run').index and len(latent(tmp_path/'run')) == 59

def test_limits(cells, tmp_path, scvae_nb):
    "Cells beyond a limit are left out, and it is said how many"
    few = cells.copy()
    counts = cells.X.toarray()
    counts[:7, 10:] = 0
    few.X = sp.csr_matrix(counts)
    few.write_h5ad(tmp_path/'few.h5ad')
    status, out, err = scvae_nb('train', tmp_path/'few.h5ad', '--min-genes', 20, *QUICK, '--out', tmp_path/'run')
    assert status == 0 and '53 of 60 cells' in out, out + err
    assert list(latent(tmp_path/'run').index) == list(cells.obs_names[7:])

def test_no_bar_where_nobody_watches(cells, tmp_path, scvae_nb):
    cells.write_h5ad(tmp_path/'cells.h5ad')
    plain = scvae_nb('train', tmp_path/'cells.h5ad', *QUICK, '--out', tmp_path/'run')[2]
    assert [line for line in plain.splitlines() if not line.startswith('scvae-nb: note: ')] == []   # words, no bar
    bar = '--set', 'progress=true'
    assert 'epoch' in scvae_nb('train', tmp_path/'cells.h5ad', *QUICK, *bar, '--out', tmp_path/'run')[2]

def test_settings_of_a_model(cells, tmp_path, scvae_nb):
    cells.write_h5ad(tmp_path/'cells.h5ad')
    settings = '--set', 'n_hidden=7', '--set', 'gene_likelihood=nb', '--batch', 'leiden'
    args = '--model', 'scvi', '--max-epochs', 1, *settings, '--out', tmp_path/'run'
    status, _, err = scvae_nb('train', tmp_path/'cells.h5ad', *args)
    assert status == 0, err
    model = LatentModel.load(tmp_path/'run/model')
    assert (model.n_hidden, model.gene_likelihood, model.batch_key) == (7, 'nb', 'leiden')

@pytest.mark.parametrize('model', ['ae', 'scvi'])
def test_decimal_counts_have_a_way_out(model, cells, tmp_path, scvae_nb):
    "Corrected counts are taken with a word, or the message names the option that takes them"
    decimal = cells.copy()
    decimal.X = decimal.X*np.float32(15*.97)
    decimal.write_h5ad(tmp_path/'decimal.h5ad')
    args = ['train', tmp_path/'decimal.h5ad', '--model', model, '--max-epochs', 1, '--out', tmp_path/'run']
    status, _, err = scvae_nb(*args)
    if status:
        assert '--round-counts' in err, err
        status, _, err = scvae_nb(*args, '--round-counts')
    assert status == 0, err

def test_home(cells, tmp_path, monkeypatch, scvae_nb):
    "`~` is home for each path"
    monkeypatch.setenv('HOME', str(tmp_path))
    cells.write_h5ad(tmp_path/'cells.h5ad')
    assert scvae_nb('train', '~/cells.h5ad', *QUICK, '--out', '~/run')[0] == 0
    paths = '--model', '~/run', '--out', '~/with.h5ad', '--figure', '~/cells.png'
    assert scvae_nb('embed', '~/cells.h5ad', *paths, '--labels', 'leiden')[0] == 0
    stub(monkeypatch)
    assert scvae_nb('report', '--data', '~/cells.h5ad', '--out', '~/report')[0] == 0
    assert {p.name for p in tmp_path.iterdir()} == {'cells.h5ad', 'run', 'with.h5ad', 'cells.png', 'report'}

# --- embed ---

@pytest.fixture(scope='module')
def trained(cells, tmp_path_factory):
    "A model of those cells"
    folder = tmp_path_factory.mktemp('trained')
    cells.write_h5ad(folder/'cells.h5ad')
    main(['train', str(folder/'cells.h5ad'), *map(str, QUICK), '--out', str(folder/'run')])
    return folder

def test_embed_leaves_the_counts(trained, cells, tmp_path, scvae_nb):
    args = '--model', trained/'run', '--out', tmp_path/'with.h5ad', '--figure', tmp_path/'cells.png'
    status, _, err = scvae_nb('embed', trained/'cells.h5ad', *args)
    assert status == 0, err
    out = ad.read_h5ad(tmp_path/'with.h5ad')
    np.testing.assert_array_equal(out.X.toarray(), cells.X.toarray())
    np.testing.assert_allclose(out.obsm['X_ae'], latent(trained/'run'), rtol=1e-5)
    assert not out.layers and (tmp_path/'cells.png').read_bytes()[:4] == b'\x89PNG'

@by_name
def test_embed_takes_genes_by_name(trained, cells, tmp_path, scvae_nb):
    "In another order, with some more, and with some missing: what is filled in is said"
    log = log_normalize(cells)
    log[:, ::-1].copy().write_h5ad(tmp_path/'reversed.h5ad')
    log[:, :36].copy().write_h5ad(tmp_path/'fewer.h5ad')
    args = '--model', trained/'run', '--out', tmp_path/'x.h5ad'
    status, _, err = scvae_nb('embed', tmp_path/'reversed.h5ad', *args)
    assert status == 0, err
    encoded = ad.read_h5ad(tmp_path/'x.h5ad').obsm['X_ae']
    np.testing.assert_allclose(encoded, latent(trained/'run'), rtol=1e-4, atol=1e-5)
    status, _, err = scvae_nb('embed', tmp_path/'fewer.h5ad', *args, '--genes', 'missing=zero')
    assert status == 0 and 'note: ' in err and '4' in err, err
    status, _, err = scvae_nb('embed', tmp_path/'fewer.h5ad', *args, '--genes', 'missing=refuse')
    assert status == 1 and 'g36' in err and '--genes missing=fill' in err, err
    log[:, :9].copy().write_h5ad(tmp_path/'few.h5ad')
    status, _, err = scvae_nb('embed', tmp_path/'few.h5ad', *args)
    assert status == 1 and '--genes limit=1' in err, err
    assert scvae_nb('embed', tmp_path/'few.h5ad', *args, '--genes', 'missing=zero,limit=1')[0] == 0

def seurat_disk(cells, path):
    "As SeuratDisk writes: raw/var has a column called _index"
    log = log_normalize(cells)
    log.raw = cells
    log.write_h5ad(path)
    names, text = cells.var_names.to_numpy(dtype=object), h5py.string_dtype()
    with h5py.File(path, 'r+') as f:
        table = f['raw/var']
        table.move('_index', 'features')
        table.attrs['_index'], table.attrs['column-order'] = 'features', np.array(['_index'], dtype=text)
        table['_index'] = names.astype(text)
        table['_index'].attrs.update({'encoding-type': 'string-array', 'encoding-version': '0.2.0'})

def test_embed_writes_what_seurat_wrote(trained, cells, tmp_path, scvae_nb):
    seurat_disk(cells, tmp_path/'s.h5ad')
    status, _, err = scvae_nb('embed', tmp_path/'s.h5ad', '--model', trained/'run', '--out', tmp_path/'o.h5ad')
    assert status == 0, err
    out = ad.read_h5ad(tmp_path/'o.h5ad')
    assert out.obsm['X_ae'].shape == (60, 10) and out.raw.shape == (60, 40)

def test_disk_that_is_full_leaves_the_answers(trained, tmp_path, monkeypatch, scvae_nb):
    def full(*_, **__): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(ad.AnnData, 'write_h5ad', full)
    args = '--model', trained/'run', '--out', tmp_path/'o.h5ad'
    status, _, err = scvae_nb('embed', trained/'cells.h5ad', *args)
    assert status == 1 and 'No space left' in err and str(tmp_path/'o.csv') in err
    assert [p.name for p in tmp_path.iterdir()] == ['o.csv'] and len(pd.read_csv(tmp_path/'o.csv')) == 60

# --- ends ---

def wait_for(path, process):
    "Until there is a file"
    end = time.time() + 120
    while not path.exists() and process.poll() is None and time.time() < end: time.sleep(.1)
    assert path.exists()

LONG = ['train', 'demo', '--model', 'ae', '--max-epochs', 10**6]

def test_sigterm_is_ctrl_c(tmp_path):
    "What was learnt is written, as after Ctrl-C, and that is no failure"
    args = dict(env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command(*LONG, '--out', tmp_path/'run'), **args)
    wait_for(tmp_path/'run/checkpoint', process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and 'Traceback' not in err and 'stopped' in err
    assert {'history.csv', 'latent.csv', 'model'} <= {p.name for p in (tmp_path/'run').iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ['run']

KILLED = """
import os, signal, sys
from scvae_nb import cli
def run(folder, parameters): os.kill(os.getpid(), signal.SIGKILL)
cli.run_notebook = run
cli.main(['report', '--out', sys.argv[1]])
"""
def test_kill_9_and_the_next_run(tmp_path, monkeypatch, scvae_nb):
    "The hidden folder of a killed run is swept by the next one; somebody else's is not"
    (tmp_path/'.out-notes').mkdir()
    done = subprocess.run([sys.executable, '-c', KILLED, tmp_path/'out'], env=environment())
    assert done.returncode == -signal.SIGKILL
    assert len([p for p in tmp_path.iterdir() if p.name.startswith('.out-')]) == 2
    stub(monkeypatch)
    assert scvae_nb('report', '--out', tmp_path/'out')[0] == 0
    assert {p.name for p in tmp_path.iterdir()} == {'.out-notes', 'out'}

ENDS = {'head': '| head -1', 'no reader': '| true', 'no streams': '>&- 2>&-', 'a full disk': '>/dev/full'}

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full here')
@pytest.mark.parametrize('end', ENDS)
def test_a_stream_that_nobody_reads(end, tmp_path):
    words = ' '.join(f"'{a}'" for a in command('train', 'demo', *QUICK, '--out', tmp_path/'run'))
    done = subprocess.run(['bash', '-c', f'set -o pipefail; {words} {ENDS[end]}'], capture_output=True, text=True,
                          env=environment())
    assert done.returncode == 0, done.stderr
    assert 'BrokenPipe' not in done.stderr and (tmp_path/'run/latent.csv').exists()

# --- the process itself ---

THREADS = """
import os
before = dict(os.environ)
import scvae_nb.cli
changed = [k for k in os.environ if os.environ[k] != before.get(k)]
print([k for k in changed if k.startswith(('OMP', 'MKL', 'OPENBLAS'))])
"""
def test_import_leaves_threads_alone():
    "What OpenMP was told, or not told, is the caller's; a passive wait alone made an epoch twice as slow"
    done = subprocess.run([sys.executable, '-c', THREADS], capture_output=True, text=True)
    assert done.stdout == '[]\n', done

FITS = """
import multiprocessing as mp, time
from joblib import delayed
def fits():
    from scvae_nb.report import on_all_cores
    on_all_cores(delayed(time.sleep)(3) for _ in range(2))   # long enough for both workers to be there
if __name__ == '__main__':
    p = mp.get_context('fork').Process(target=fits)
    p.start(); p.join(120)
    print('still there' if p.is_alive() else p.exitcode); p.terminate()
"""
def test_a_process_that_used_all_cores_can_end(tmp_path):
    "As nbdev_test's do: idle workers once held their parent for five minutes."
    script = tmp_path/'fits.py'
    script.write_text(FITS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.stdout == '0\n', done

def test_the_page_of_the_way_runs_every_command():
    "Each line of a shell on the page is run by it: no command is only shown"
    nb = nbformat.read(ROOT/'nbs/43_your_cells.ipynb', 4)
    prose = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    assert not re.search(r'^\s*scvae-nb ', prose, flags=re.M)
    run = [line for c in nb.cells if c.cell_type == 'code' for line in re.findall(r'shell\("(scvae-nb \w+)', c.source)]
    assert {'scvae-nb train', 'scvae-nb embed'} <= set(run)
