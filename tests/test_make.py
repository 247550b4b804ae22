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
    assert all(f'make {o} ' in out for o in 'help report test bench docs refresh lint clean'.split())

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
