"The built package holds everything, and runs where the project is not."
import os, subprocess, sys, zipfile
import pytest
from conftest import ROOT, copy_project

def run(*args, **kw):
    r = subprocess.run([str(o) for o in args], capture_output=True, text=True, **kw)
    assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
    return r.stdout

@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    d = copy_project(tmp_path_factory.mktemp('sdist')/'project')
    run(sys.executable, '-m', 'build', '--sdist', '--no-isolation', d)
    return next((d/'dist').glob('*.tar.gz'))

@pytest.fixture(scope='module', params=['from the project', 'from the sdist'])
def wheel(request, tmp_path_factory):
    d = tmp_path_factory.mktemp('wheel')
    source = copy_project(d/'project') if request.param == 'from the project' else request.getfixturevalue('sdist')
    run(sys.executable, '-m', 'pip', 'wheel', source, '--no-deps', '--no-index', '--no-build-isolation', '-w', d/'dist')
    return next((d/'dist').glob('*.whl'))

@pytest.fixture(scope='module')
def env(wheel, tmp_path_factory):
    "The wheel in a folder of its own, and the environment in which Python finds it there"
    d = tmp_path_factory.mktemp('installed')
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', d, wheel)
    return os.environ | {'PYTHONPATH': str(d), 'PATH': f"{d/'bin'}{os.pathsep}{os.environ['PATH']}"}

@pytest.mark.parametrize('name, source', [('report.ipynb', '24_report.ipynb'), ('references.bib', 'references.bib')])
def test_data_files(wheel, name, source):
    "What is a link in the project is a file in the wheel"
    assert zipfile.ZipFile(wheel).read(f'scvae_nb/{name}') == (ROOT/'nbs'/source).read_bytes()

def test_modules(wheel):
    "Every module of the package, and nothing beside it"
    names = {n for n in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in n}
    assert names == {f'scvae_nb/{p.name}' for p in (ROOT/'scvae_nb').iterdir() if p.is_file()}

def test_runs_elsewhere(env, empty_dir):
    where = run(sys.executable, '-c', 'import scvae_nb.all; print(scvae_nb.__file__)', env=env, cwd=empty_dir)
    assert where.startswith(env['PYTHONPATH'])
    out = run('scvae-nb', '--help', env=env, cwd=empty_dir)
    assert all(o in out for o in ('report', 'train', 'embed'))
    assert not list(empty_dir.iterdir())

def test_report_from_the_wheel(env, wheel, empty_dir, request):
    "The report on the default, in an empty folder, by the package that was installed"
    if 'from the sdist' in request.node.name: pytest.skip('once is enough')
    out = run('scvae-nb', 'report', '--max_epochs', 1, env=env, cwd=empty_dir)
    assert out.strip().splitlines()[-1] == f"The report is in {empty_dir/'_report/demo/report.html'}"
    assert (empty_dir/'_report/demo/scores.csv').exists()
