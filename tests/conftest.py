"What the tests share: they look at the project from outside, through its files and commands."
import os, shutil, subprocess
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
PBMC3K = 'pbmc3k_filtered_gene_bc_matrices.tar.gz'

def copy_project(to):
    "A copy of the project as git has it: without what .gitignore names; links stay links"
    ignored = [Path(o).name for o in (ROOT/'.gitignore').read_text().split()]
    return Path(shutil.copytree(ROOT, to, symlinks=True, ignore=shutil.ignore_patterns('.git', *ignored)))

MAKES = ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'DATA', 'SEEDS', 'OUT', 'VARIANTS', 'PYTHON', 'ONLY', 'STALE',
         'KERNELS', 'THREADS')

def make(*args, cwd=ROOT, **env):
    "Run make, as if not from within another make"
    clean = {k: v for k, v in os.environ.items() if k not in MAKES}
    return subprocess.run(['make', *args], cwd=cwd, env=clean | env, capture_output=True, text=True)

@pytest.fixture
def project(tmp_path):
    "A fresh copy of the project, to change at will"
    return copy_project(tmp_path/'project')

@pytest.fixture
def empty_dir(tmp_path, monkeypatch):
    "An empty folder, and the working directory is there"
    d = tmp_path/'empty'
    d.mkdir()
    monkeypatch.chdir(d)
    return d

@pytest.fixture(scope='session')
def pbmc3k_data():
    "The folder with PBMC3k that `SCVAE_NB_DATA` names; without it the test is skipped, and says so"
    d = os.environ.get('SCVAE_NB_DATA')
    if not d: pytest.skip('SCVAE_NB_DATA is not set: it names the folder that holds PBMC3k')
    if not next(Path(d).rglob(PBMC3K), None): pytest.skip(f'SCVAE_NB_DATA is {d}, which does not hold {PBMC3K}')
    return Path(d)
