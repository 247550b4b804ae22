"The commands as a user types them: results, and words for what goes wrong."
import os, subprocess, sys
import anndata as ad, pandas as pd, pytest
from scvae_nb.cli import main
from scvae_nb.data import demo

def cli(*args, cwd=None):
    env = os.environ | dict(OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1')
    command = [sys.executable, '-m', 'scvae_nb', *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=600)

@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "The report on the default, with few epochs, as `make report` runs it."
    folder = tmp_path_factory.mktemp('report')
    return folder, cli('report', '--max_epochs', 5, '--seeds', 2, '--out', folder/'demo', cwd=folder)

def test_report(report):
    folder, done = report
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"The report is in {folder/'demo/report.html'}"
    assert [p.name for p in folder.iterdir()] == ['demo']
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

def test_page_stands_alone(report):
    text = (report[0]/'demo/report.html').read_text()
    assert 'src="http' not in text and '<link' not in text               # nothing is fetched
    assert text.count('<figure id="fig-') >= 12 and text.count('data:image/png;base64,') >= 10
    assert 'Plotly.newPlot' in text
    body = text.split('</script></head>')[-1]
    for left in ('[@', '@fig-', '@tbl-', '$$', ':::', '{#'): assert left not in body, left

BAD = {
    'missing file': (lambda d: ['train', d/'no.h5ad'], 'no.h5ad'),
    'report on a missing file': (lambda d: ['report', '--data', d/'no.h5ad'], 'no.h5ad'),
    'unknown model': (lambda d: ['train', 'demo', '--model', 'gan'], 'one of ae, vae, vsc'),
    'n_latent out of range': (lambda d: ['train', 'demo', '--n_latent', 0, '--out', d/'run'], "'n_latent'"),
    'beta out of range': (lambda d: ['train', 'demo', '--beta', -1, '--out', d/'run'], "'beta'"),
    'batch_size out of range': (lambda d: ['train', 'demo', '--batch_size', 0, '--out', d/'run'], "'batch_size'"),
    'epochs out of range': (lambda d: ['report', '--max_epochs', 0, '--out', d/'run'], 'max_epochs'),
    'no model': (lambda d: ['embed', 'demo', '--model', d], 'no saved model'),
    'unknown command': (lambda d: ['sing'], "no command 'sing'"),
}

@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    "Within this process, which saves importing everything anew; the next test is from outside"
    args, words = BAD[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end: main([str(a) for a in args(tmp_path)])
    err = capsys.readouterr().err
    assert end.value.code in (1, 2) and words in err and 'Traceback' not in err, err
    assert list(tmp_path.iterdir()) == []                                # nothing half written

def test_bad_input_from_outside(tmp_path):
    args, words = BAD['missing file']
    done = cli(*args(tmp_path), cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr and 'Traceback' not in done.stderr, done

def test_debug_shows_the_traceback(tmp_path):
    assert 'Traceback' in cli('--debug', 'train', tmp_path/'no.h5ad').stderr

def test_too_few_cells_for_the_report(tmp_path):
    demo()[:5].copy().write_h5ad(tmp_path/'few.h5ad')
    done = cli('report', '--data', tmp_path/'few.h5ad', '--max_epochs', 1, '--out', tmp_path/'out', cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['few.h5ad']

def test_other_genes_are_named(tmp_path):
    cells = demo()
    assert cli('train', 'demo', '--model', 'ae', '--max_epochs', 1, '--out', tmp_path/'run').returncode == 0
    cells[:, 1:].copy().write_h5ad(tmp_path/'less.h5ad')
    done = cli('embed', tmp_path/'less.h5ad', '--model', tmp_path/'run', '--out', tmp_path/'x.h5ad')
    assert done.returncode == 1 and f'missing: {cells.var_names[0]}' in done.stderr and not (tmp_path/'x.h5ad').exists()

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
