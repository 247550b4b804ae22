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
