"The three estimators from outside: scikit-learn's contract, determinism, and runs that are killed."
import json, signal, subprocess, sys, time
import numpy as np, pandas as pd, pytest
from sklearn.utils.estimator_checks import check_estimator
from scvae_nb.ae import DeepAE
from scvae_nb.data import demo
from scvae_nb.vae import BetaVAE
from scvae_nb.vsc import BetaVSC
from scvae_nb.report import run_one

SMALL = dict(max_epochs=5, hidden=(16, 8), head_hidden=4, n_latent=2, progress=False)
MODELS = [DeepAE, BetaVAE, BetaVSC]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('Model', MODELS)
def test_check_estimator(Model):
    "No check is waived; the one for array API input is skipped by scikit-learn itself unless SCIPY_ARRAY_API is set."
    rows = check_estimator(Model(**SMALL), on_fail=None)
    assert len(rows) > 40
    assert [(r['check_name'], str(r['exception'])) for r in rows if r['status'] == 'failed'] == []
    assert {r['check_name'] for r in rows if r['status'] != 'passed'} <= {'check_array_api_input'}

def test_check_estimator_can_fail():
    class Broken(DeepAE):
        def transform(self, X): return np.zeros((1, 2))
    assert any(r['status'] == 'failed' for r in check_estimator(Broken(**SMALL), on_fail=None))

@pytest.mark.parametrize('model', ['ae', 'vae', 'vsc'])
def test_same_seed_same_scores(model):
    cells = demo()[::3].copy()
    one, two = (run_one(model, cells, 3, 5).evaluation.row for _ in range(2))
    assert one == two
    assert run_one(model, cells, 4, 5).evaluation.row != one

@pytest.mark.parametrize('Model, settings, words', [
    (DeepAE, dict(n_latent=0), "'n_latent'"),
    (DeepAE, dict(batch_size=0), "'batch_size'"),
    (DeepAE, dict(max_epochs=0), "'max_epochs'"),
    (BetaVAE, dict(beta=-1.), "'beta'"),
    (BetaVSC, dict(alpha=1.), "'alpha'"),
    (BetaVSC, dict(alpha=0.), "'alpha'"),
    (BetaVSC, dict(gamma_start=0.), "'gamma_start'")])
def test_settings(Model, settings, words):
    with pytest.raises(ValueError, match=words): Model(**settings).fit(demo())

def test_loss_that_becomes_nan():
    with pytest.raises(FloatingPointError, match="the term 'reconstruction' is (nan|inf) in batch .*learning rate"):
        DeepAE(lr=1e30, max_epochs=20, progress=False, random_state=0).fit(demo())

# --- processes that are killed ---

def cli(*args, **kw): return [sys.executable, '-m', 'scvae_nb', *map(str, args)]

def hear_ctrl_c():
    "A process that is started in the background would ignore it"
    signal.signal(signal.SIGINT, signal.SIG_DFL)

def start(folder, *extra):
    "A training that takes a while, in a process of its own"
    args = ['demo', '--model', 'vsc', '--out', folder, '--max_epochs', 120, '--batch_size', 100, *extra]
    pipes = dict(stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    return subprocess.Popen(cli('train', *args), **pipes, text=True, preexec_fn=hear_ctrl_c)

def finish(run): assert run.wait(300) == 0, run.stderr.read()

def wait_for(path):
    limit = time.time() + 200
    while not path.exists() and time.time() < limit: time.sleep(.02)

def test_killed_run_resumes_with_the_same_history(tmp_path):
    whole, killed = tmp_path/'whole', tmp_path/'killed'
    finish(start(whole))
    run = start(killed)
    wait_for(killed/'checkpoint')
    run.send_signal(signal.SIGKILL)
    run.wait(60)
    assert not (killed/'model').exists(), 'it was through before it could be killed'
    finish(start(killed))
    for name in ('history.csv', 'latent.csv'): assert (killed/name).read_text() == (whole/name).read_text()
    assert sorted(p.name for p in killed.iterdir()) == ['history.csv', 'latent.csv', 'model']

def test_ctrl_c_keeps_what_was_learnt(tmp_path):
    run = start(tmp_path/'run', '--seed', 1)
    wait_for(tmp_path/'run/checkpoint')
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0 and 'stopped by Ctrl-C after' in err and 'Traceback' not in err, err
    n = len(json.loads((tmp_path/'run/model/model.json').read_text())['history']['loss'])
    assert 10 <= n < 120 and n == len(pd.read_csv(tmp_path/'run/history.csv'))

SAVES_ON_A_FULL_DISK = """
import resource, signal, sys
from scvae_nb.ae import DeepAE
model = DeepAE.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try: model.save(sys.argv[1])
except OSError as e: print(e)
"""
def test_full_disk_leaves_the_old_model_whole(tmp_path):
    DeepAE(max_epochs=1, progress=False, random_state=0).fit(demo()).save(tmp_path/'m')
    before = {p.name: p.read_bytes() for p in (tmp_path/'m').iterdir()}
    done = subprocess.run([sys.executable, '-c', SAVES_ON_A_FULL_DISK, tmp_path/'m'], capture_output=True, text=True)
    assert 'could not be written' in done.stdout and 'make room' in done.stdout, done
    assert {p.name: p.read_bytes() for p in (tmp_path/'m').iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ['m']

IMPORTS = """
import sys, scvae_nb.vsc, scvae_nb.scvi, scvae_nb.actinn, scvae_nb.data
print('scanpy' in sys.modules, 'numba' in sys.modules)
scvae_nb.data.demo()
print('scanpy' in sys.modules)
"""
def test_models_do_not_import_scanpy():
    "A second or two and 60 MB that only reading and preparing counts need"
    done = subprocess.run([sys.executable, '-c', IMPORTS], capture_output=True, text=True)
    assert done.stdout == 'False False\nTrue\n', done

# --- other data, other genes, other versions: each right value of the cases that people brought

def small(Model=DeepAE, **kw): return Model(**SMALL | dict(random_state=0) | kw)

def test_set_output_works_on_transform():
    from scvae_nb.linear import ProbabilisticPCA
    table = demo()[:60].to_df()
    for model in (small(), ProbabilisticPCA(n_latent=2)):
        model.set_output(transform='pandas')
        first, second = model.fit_transform(table), model.transform(table)
        assert type(second) is type(first) is pd.DataFrame
        assert list(second.index) == list(table.index) and list(second.columns) == list(model.get_feature_names_out())

def test_fit_request_knows_the_checkpoint():
    import sklearn
    with sklearn.config_context(enable_metadata_routing=True):
        for Model in MODELS: assert Model().set_fit_request(checkpoint=True)

def test_same_seed_in_threads():
    import joblib
    X = np.random.default_rng(0).gamma(1., size=(60, 40)).astype(np.float32)
    def latent(): return small(BetaVAE, max_epochs=5, batch_size=16).fit(X).transform(X)
    alone = latent()
    at_once = joblib.Parallel(n_jobs=3, backend='threading')(joblib.delayed(latent)() for _ in range(4))
    assert all((Z == alone).all() for Z in at_once)

@pytest.mark.filterwarnings('ignore')
def test_naming_genes_is_linear():
    cells = demo()[:50].copy()
    import anndata as ad, scipy.sparse as sp
    X = sp.csr_matrix(np.tile(cells.X.toarray(), (1, 11)))                       # 8,415 genes
    wide = ad.AnnData(X, var=pd.DataFrame(index=[f'ENSG{j:011d}' for j in range(X.shape[1])]))
    model = small(max_epochs=1).fit(wide)
    started = time.time()
    assert (model.transform(wide[:, ::-1]) == model.transform(wide)).all()
    assert time.time() - started < 5                                             # the square of it took minutes

def test_missing_genes_are_told_and_filled():
    cells = demo()
    model = small().fit(cells)
    with pytest.warns(UserWarning, match='are missing.*the mean of the training cells'):
        fewer = model.transform(cells[:, :600])
    with pytest.warns(UserWarning): again = model.transform(cells[:, :600][:, ::-1])
    assert (fewer == again).all()
    with pytest.raises(ValueError, match='none of the 765 genes'):
        other = cells.copy()
        other.var_names = [f'{g}-x' for g in other.var_names]
        model.transform(other)

def test_score_after_load_is_the_same(tmp_path):
    cells = demo()[:100].copy()
    for model in (small(), small(BetaVAE), small(BetaVSC, sharpness=(5., 50.))):
        model.fit(cells).save(tmp_path/'m')
        assert type(model).load(tmp_path/'m').score(cells) == model.score(cells)
    assert 'sharpness 50' in model.score_meaning and 'no bound' in small().fit(cells).score_meaning

@pytest.mark.parametrize('fault', ['values', 'names of genes', 'names of cells', 'weights'])
def test_checkpoint_of_other_data_is_refused(tmp_path, fault):
    import torch
    cells, path = demo()[:100].copy(), tmp_path/'checkpoint'
    small().fit(cells, checkpoint=path)
    other, words = cells.copy(), f'{fault} was'
    if fault == 'values': other = cells[:, ::-1].copy()
    elif fault == 'names of genes': other.var_names = other.var_names[::-1]
    elif fault == 'names of cells': other.obs_names = other.obs_names[::-1]
    else:
        state, words = torch.load(path, weights_only=True), 'of another version'
        state['model'] = {f'old.{k}': v for k, v in state['model'].items()}
        torch.save(state, path)
    with pytest.raises(ValueError, match=words): small(max_epochs=9).fit(other, checkpoint=path)
