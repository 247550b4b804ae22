"Notebooks, package and README say the same: writing them anew changes no file."
import os, subprocess, sys
from pathlib import Path
import nbformat
from conftest import ROOT

BIN = Path(sys.executable).parent

def files(d):
    paths = [p for p in d.rglob('*') if p.is_file() and '__pycache__' not in p.parts]
    return {str(p.relative_to(d)): p.read_bytes() for p in paths}

def changed(d, *commands):
    "The files under `d` that `commands` change, make or remove"
    before = files(d)
    for c in commands:
        env = os.environ | {'PYTHONPATH': str(d)}
        r = subprocess.run([str(o) for o in c], cwd=d, env=env, capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
    after = files(d)
    return sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))

CLEAN, EXPORT = [BIN/'nbdev_clean'], [BIN/'nbdev_export']
README = [sys.executable, 'tools/readme.py', 'README.md']

def test_notebooks_and_package(project):
    assert changed(project, CLEAN, EXPORT) == [], 'run `make lint`, look at what it changes, and commit it'

def test_readme(project): assert changed(project, README) == [], 'run `make readme`, and commit README.md'

def test_a_change_would_be_seen(project):
    p = next(p for p in sorted((project/'nbs').glob('[0-9]*.ipynb')) if '#| export' in p.read_text())
    nb = nbformat.read(p, 4)
    next(c for c in nb.cells if c.source.startswith('#| export')).source += '\nplanted = 1'
    nb.cells[-1].execution_count = 7
    nbformat.write(nb, p)
    assert f'nbs/{p.name}' in changed(project, CLEAN)
    assert f"scvae_nb/{p.stem.split('_', 1)[1]}.py" in changed(project, EXPORT)
    index = project/'nbs/index.ipynb'
    index.write_text(index.read_text().replace('# scvae_nb', '# planted', 1))
    assert changed(project, README) == ['README.md']

def test_links():
    "The package's data files and the site's settings are each kept in one place"
    links = {
        'scvae_nb/report.ipynb': 'nbs/24_report.ipynb',
        'scvae_nb/references.bib': 'nbs/references.bib',
        'nbs/_quarto.yml': '_quarto.yml',
    }
    for link, to in links.items():
        assert (ROOT/link).is_symlink() and (ROOT/link).resolve() == (ROOT/to).resolve(), link
        assert (ROOT/to).is_file(), to
