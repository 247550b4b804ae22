"The Makefile, without installing anything."
import os, shutil, time
import pytest
from conftest import ROOT, make

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='make is not on PATH')

@pytest.fixture
def folder(tmp_path):
    "What make looks at, and nothing else"
    for f in ('Makefile', 'settings.ini', 'setup.py', 'constraints.txt'): shutil.copy(ROOT/f, tmp_path)
    return tmp_path

@pytest.fixture
def installed(folder):
    "As after the first run"
    (folder/'.venv').mkdir()
    (folder/'.venv/.installed').touch()
    return folder

def python(folder, code):
    "A python3 that is not what we need"
    p = folder/'python-stub'
    p.write_text(f'#!/bin/sh\n{code}\n')
    p.chmod(0o755)
    return f'PYTHON={p}'

def stub(folder, name, code):
    "A command of the environment that does what we say"
    p = folder/'bin'/name
    p.parent.mkdir(exist_ok=True)
    p.write_text(f'#!/bin/sh\n{code}\n')
    p.chmod(0o755)

@pytest.mark.parametrize('args, command', [
    ([],                                   "--data 'demo' --seeds 1 --out '_report/demo'"),
    (['DATA=pbmc3k', 'SEEDS=5'],           "--data 'pbmc3k' --seeds 5 --out '_report/pbmc3k'"),
    (['DATA=x/y.h5ad'],                    "--data 'x/y.h5ad' --seeds 1 --out '_report/y'"),
    (['DATA=/x/cells.csv.gz', 'OUT=here'], "--data '/x/cells.csv.gz' --seeds 1 --out 'here'"),
    (['DATA=x/hg19/', 'VARIANTS=1'],       "--data 'x/hg19/' --seeds 1 --out '_report/hg19' --variants"),
    (['DATA=counts.tar.gz'],               "--data 'counts.tar.gz' --seeds 1 --out '_report/counts'")])
def test_report(installed, args, command):
    "Once installed, `make report` runs this one command"
    assert make('-n', 'report', *args, cwd=installed).stdout.splitlines() == [f'.venv/bin/scvae-nb report {command}']

def test_test(installed):
    "The notebooks first, pytest last: its closing line is the last one"
    lines = make('-n', 'test', cwd=installed).stdout.splitlines()
    assert len(lines) == 2 and 'nbdev_test' in lines[0] and 'pytest' in lines[1]

@pytest.mark.parametrize('file', ['settings.ini', 'setup.py', 'constraints.txt'])
def test_installs_again_when_needs_change(installed, file):
    later = time.time() + 10
    os.utime(installed/file, (later, later))
    assert 'pip install -c constraints.txt' in make('-n', 'report', cwd=installed).stdout

def test_help():
    out = make().stdout
    assert all(f'make {o} ' in out for o in 'help report test kernels bench docs refresh lint clean'.split())

@pytest.mark.parametrize('code, message', [
    ('case "$1" in -V) echo Python 3.8.1;; *) exit 1;; esac',
     'is Python 3.8.1; scvae_nb needs Python 3.10 or later'),
    ('case "$2" in *ensurepip*) exit 1;; esac',
     'cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv')])
def test_unfit_python(folder, code, message):
    r = make('report', python(folder, code), cwd=folder)
    assert r.returncode and message in r.stdout and not (folder/'.venv').exists()

def test_no_python(folder):
    r = make('report', 'PYTHON=no-such-python', cwd=folder)
    assert r.returncode and 'There is no no-such-python here' in r.stdout and not (folder/'.venv').exists()

def test_failed_install_is_not_taken_for_done(folder):
    "Here pip cannot be found; the next run must try again"
    r = make('report', python(folder, 'exit 0'), cwd=folder)
    assert r.returncode and not (folder/'.venv/.installed').exists()

@pytest.mark.skipif(shutil.which('quarto') is not None, reason='Quarto is here')
def test_docs_without_quarto(installed):
    r = make('docs', cwd=installed)
    assert r.returncode and 'https://quarto.org/docs/get-started/' in r.stdout

# --- notebooks that are run anew ---

EXECUTES = 'nbconvert --to notebook --execute'

@pytest.mark.parametrize('args, names', [
    (['ONLY=nbs/b.ipynb'], 'b'),
    (['ONLY=nbs/a.ipynb nbs/c.ipynb'], 'a c'),
    ([], 'a b c'),
    (['STALE=1'], 'a c'),
    (['STALE=1', 'ONLY=nbs/b.ipynb nbs/c.ipynb'], 'c')])
def test_refresh(installed, args, names):
    "Each notebook is run, then stamped; b is fresh already"
    (installed/'nbs').mkdir()
    for name in 'abc': (installed/f'nbs/{name}.ipynb').touch()
    stub(installed, 'jupyter', 'for last; do :; done; echo "run $last" >> calls')
    stub(installed, 'python', '''case "$*" in
        *--set*) echo "set $3" >> calls;;
        *stamp.py*/b.ipynb) exit 0;;
        *stamp.py*) exit 1;;
        esac''')
    for name in ('nbdev_export', 'nbdev_clean'): stub(installed, name, f'echo {name} >> calls')
    r = make('refresh', 'BIN=bin', *args, cwd=installed)
    assert r.returncode == 0, r.stdout + r.stderr
    expected = [f'{word} nbs/{n}.ipynb' for n in names.split() for word in ('run', 'set')]
    assert (installed/'calls').read_text().splitlines() == ['nbdev_export', *expected, 'nbdev_clean']

def test_a_notebook_that_fails_is_not_stamped(installed):
    stub(installed, 'jupyter', 'exit 1')
    stub(installed, 'python', 'echo "$*" >> calls')
    stub(installed, 'nbdev_export', '')
    assert make('refresh', 'BIN=bin', 'ONLY=nbs/a.ipynb', cwd=installed).returncode
    assert not (installed/'calls').exists()

# --- other processors ---

def kernels(folder, native, *args, fails='never'):
    "`make kernels` on a processor that can do `native`; what was run"
    (folder/'tools').mkdir()
    shutil.copy(ROOT/'tools/kernels.sh', folder/'tools')
    suite = f'''run="$ATEN_CPU_CAPABILITY $OMP_NUM_THREADS $NUMBA_NUM_THREADS"
        echo "$(basename $0) $run" >> calls; [ "$run" != "{fails}" ]'''
    stub(folder, 'nbdev_test', suite)
    stub(folder, 'python', f'case "$1" in -c) echo {native}; exit;; esac\n{suite}')
    r = make('kernels', 'BIN=bin', *args, cwd=folder, ATEN_CPU_CAPABILITY='avx2')
    calls = folder/'calls'
    return r, calls.read_text().splitlines() if calls.exists() else []

def test_kernels(installed):
    "Each kernel that the processor has, with one thread and with two: the notebooks, then the tests"
    r, calls = kernels(installed, 'AVX2')
    assert r.returncode == 0, r.stdout + r.stderr
    runs = ['default 1 1', 'default 2 2', 'avx2 1 1', 'avx2 2 2']
    assert calls == [f'{what} {run}' for run in runs for what in ('nbdev_test', 'python')]
    assert 'avx512: left out, this processor goes as far as AVX2' in r.stdout
    assert r.stdout.count('passed') == 4 and (installed/'_report/kernels/avx2-2.log').exists()

def test_kernels_that_fail(installed):
    "All others are run nevertheless, and make fails"
    r, calls = kernels(installed, 'AVX512', 'KERNELS=avx2 avx512', 'THREADS=1', fails='avx2 1 1')
    assert r.returncode and len(calls) == 4
    assert 'avx2, OMP_NUM_THREADS=1: FAILED, see _report/kernels/avx2-1.log' in r.stdout
    assert 'avx512, OMP_NUM_THREADS=1: passed' in r.stdout
