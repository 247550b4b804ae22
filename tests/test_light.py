"What is imported when: a library that is not used costs neither time nor memory, and need not be installed."
import os, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
import anndata as ad, numpy as np, pandas as pd, pytest, scipy.sparse as sp
from conftest import ROOT
from scvae_nb.checks import REPORT

FROM_USE = {'anndata', 'h5py', 'lightning_fabric', 'torch._dynamo', 'torch.distributed.fsdp', 'sklearn.cluster',
            'sklearn.manifold', *REPORT}                 # what no import of ours may bring, only use
NOT_FOR_HELP = FROM_USE | {'pandas', 'scipy', 'sklearn', 'torch'}

TELL = r'''
import re, resource, sys
{code}
print(*sys.modules)
use, status = resource.getrusage(resource.RUSAGE_SELF), '/proc/self/status'
memory = use.ru_maxrss/2**20                             # of a Mac; Linux counts what the parent had, too
if sys.platform == 'linux': memory = int(re.search(r'VmHWM:\s*(\d+)', open(status).read())[1])/2**10
print(use.ru_utime + use.ru_stime, memory)
'''

def python(code, *args, **kw):
    "What a new Python says to stdout"
    env = os.environ | dict(OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1')
    r = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, env=env, **kw)
    assert r.returncode == 0, r.stderr
    return r.stdout

def cost(code):
    "Modules that are there after `code`, the seconds of processor time, and the MB of memory"
    *_, modules, numbers = python(TELL.format(code=code)).splitlines()
    seconds, memory = map(float, numbers.split())
    print(f'{code.splitlines()[-1]}: {seconds:.2f} s of processor time, {memory:.0f} MB')
    return set(modules.split()), seconds, memory

HELP = '''
from scvae_nb.cli import main
try: main({args})
except SystemExit as e: assert e.code == 0'''

@pytest.mark.parametrize('args', [['--help'], ['train', '--help']], ids=' '.join)
def test_help(args):
    modules, seconds, _ = cost(HELP.format(args=args))
    assert 'argparse' in modules and not modules & NOT_FOR_HELP
    assert seconds < 3                                   # 0.2 on the machine where this was written

@pytest.mark.parametrize('code', ['from scvae_nb.vae import BetaVAE', 'from scvae_nb.all import *'])
def test_estimators(code):
    "Within a quarter of what torch and scikit-learn cost alone, which every estimator needs"
    modules, seconds, memory = cost(code)
    _, _, least = cost('import torch, sklearn.base')
    assert 'torch' in modules and not modules & FROM_USE
    assert seconds < 15 and memory < 1.25*least

def test_what_is_heavy_would_be_seen():
    modules, *_ = cost('import scvae_nb.all, lightning_fabric')
    assert {'lightning_fabric', 'torch._dynamo'} <= modules & FROM_USE

# ---- the core without the extra `report`

def requirements(name):
    "The distributions that settings.ini lists there, as pip writes them"
    ini = ConfigParser()
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return {r.split('>')[0].split('<')[0].split('=')[0].lower() for r in ini['DEFAULT'][name].split()}

def test_modules_of_the_report():
    "Each comes with a distribution that the extra lists, or with one that only those bring"
    brings = packages_distributions()
    others = {'IPython': 'ipython', 'matplotlib_inline': 'matplotlib-inline', 'nbformat': 'nbformat'}
    for module in REPORT:
        names = {d.lower().replace('_', '-') for d in brings[module]}
        listed = {r.replace('_', '-') for r in requirements('report_requirements')} | {others.get(module)}
        assert names & listed, module
    assert not requirements('requirements') & requirements('report_requirements')

@pytest.fixture(scope='module')
def core(tmp_path_factory):
    "A folder with counts of 60 cells, and a start for code that runs as if the extra were not installed"
    folder = tmp_path_factory.mktemp('core')
    X = np.random.default_rng(0).poisson(1., (60, 40)) + 1
    names = [f'c{i}' for i in range(60)], [f'g{j}' for j in range(40)]
    obs, var = (pd.DataFrame(index=n) for n in names)
    ad.AnnData(sp.csr_matrix(X.astype(np.float32)), obs, var).write_h5ad(folder/'cells.h5ad')
    return folder, f'import sys\nfor name in {REPORT}: sys.modules[name] = None\nfrom scvae_nb.cli import main\n'

def test_train_and_embed(core):
    "Counts in, a model, and cells with their latent out"
    folder, start = core
    python(start + '''
main("train cells.h5ad --model vae --max-epochs 1 --out run".split())
main("embed cells.h5ad --model run --out out.h5ad".split())''', cwd=folder)
    assert ad.read_h5ad(folder/'out.h5ad').obsm['X_vae'].shape[0] == 60

@pytest.mark.parametrize('command, module', [
    ('train demo --out other', 'scanpy'), ('report --data cells.h5ad', 'nbformat'),
    ('embed cells.h5ad --model run --out fig.h5ad --figure cells.png', 'matplotlib'),
    ('train cells.h5ad --min-genes 2 --out other', 'scanpy')])
def test_what_is_missing_is_named(core, command, module):
    folder, start = core
    before = {p.name for p in folder.iterdir()}
    code = f'{start}\ntry: main({command.split()})\nexcept SystemExit as e: print(e.code)'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=folder)
    assert r.stdout.splitlines()[-1:] == ['1'], r.stdout + r.stderr
    assert f"this needs {module}: pip install 'scvae_nb[report]'" in r.stderr
    assert {p.name for p in folder.iterdir()} == before
