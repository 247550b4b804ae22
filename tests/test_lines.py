"""A line is one thought: the rule that CONTRIBUTING asks for, held in every notebook, test, benchmark and tool.
Each check takes one file as pieces of code and lists what is wrong; each is shown to find a planted fault."""
import io, os, re, shutil, statistics, subprocess, sys, tokenize
from dataclasses import dataclass
from pathlib import Path
import nbformat, pytest
from conftest import ROOT

WIDTH, LONGEST, MEDIAN = 120, 45, 10

@dataclass
class Piece:
    "A cell of a notebook, or a whole file"
    where: str
    source: str
    is_cell: bool = True

    @property
    def is_exported(self): return self.is_cell and re.search(r'^#\|\s*export[is]?\b', self.source, re.M) is not None

    @property
    def code(self):
        "Without option lines, which may be long, and without magics; lines keep their numbers"
        return re.sub(r'^(#\||[%!]).*$', '', self.source, flags=re.M)

    @property
    def body(self): return [line for line in self.code.splitlines() if line.strip()]

def pieces(path):
    "The code cells of a notebook, or the one piece that a file is"
    if path.suffix == '.py': return [Piece(path.name, path.read_text(), is_cell=False)]
    cells = enumerate(nbformat.read(path, 4).cells)
    return [Piece(f'{path.name} cell {i}', c.source) for i, c in cells if c.cell_type == 'code']

PATHS = [p for folder in ('nbs/*.ipynb', 'tests/*.py', 'bench/*.py', 'tools/*.py') for p in sorted(ROOT.glob(folder))]
FILES = {str(p.relative_to(ROOT)): pieces(p) for p in PATHS}

# ---- the checks

def long_lines(piece):
    lines = enumerate(piece.code.splitlines(), 1)
    return [f'{piece.where}, line {i} has {len(line)} characters: {line.strip()[:60]}...'
            for i, line in lines if len(line) > WIDTH]

ENDS = (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER)

def joined_statements(piece):
    "A `;` between two statements. One may end a cell's last line: there it keeps the value from being shown"
    tokens = list(tokenize.generate_tokens(io.StringIO(piece.code).readline))
    last = max((t.start[0] for t in tokens if t.type not in (*ENDS, tokenize.INDENT, tokenize.DEDENT)), default=0)
    bad = []
    for token, after in zip(tokens, tokens[1:]):
        if token.type != tokenize.OP or token.string != ';': continue
        if piece.is_cell and after.type in ENDS and token.start[0] == last: continue
        bad.append(f'{piece.where}, line {token.start[0]} holds two statements: {token.line.strip()[:60]}...')
    return bad

def long_cells(piece):
    if not piece.is_exported or len(piece.body) <= LONGEST: return []
    return [f'{piece.where}: {len(piece.body)} lines are exported, {LONGEST} are the limit']

CHECKS = [long_lines, joined_statements, long_cells]

def median_of_exported(files):
    "Lines of the exported cell in the middle"
    return statistics.median(len(p.body) for pieces in files.values() for p in pieces if p.is_exported)

# ---- the files pass them

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('name', FILES)
def test_file(name, check): assert [fault for piece in FILES[name] for fault in check(piece)] == []

# ---- ruff, as `make lint` runs it

RUFF = shutil.which('ruff', path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')]))

def ruff(*paths): return subprocess.run([RUFF, 'check', *paths], cwd=ROOT, capture_output=True, text=True)

@pytest.mark.skipif(RUFF is None, reason='ruff is not installed: `make lint` has it')
def test_ruff(tmp_path):
    report = ruff('--no-cache')
    assert report.returncode == 0, report.stdout + report.stderr
    planted = tmp_path/'planted.py'
    planted.write_text('import os\n')
    report = ruff('--no-cache', '--config', ROOT/'pyproject.toml', planted)
    assert report.returncode == 1 and 'F401' in report.stdout

def test_median_of_exported(): assert median_of_exported(FILES) <= MEDIAN

# ---- every check can fail

def cell(source): return Piece('x.ipynb cell 3', source)
def file(source): return Piece('x.py', source, is_cell=False)

LONG = "x = '" + "a"*115 + "'"  # 121 characters

@pytest.mark.parametrize('check, piece, message', [
    (long_lines, cell(f'#| fig-alt: "Dots"\n{LONG}'), 'x.ipynb cell 3, line 2 has 121 characters'),
    (long_lines, cell('# ' + 'a'*119), 'line 1 has 121'),
    (long_lines, file(f'y = 1\n{LONG}'), 'x.py, line 2 has 121'),
    (joined_statements, cell('x = 1; y = 2'), 'cell 3, line 1 holds two'),
    (joined_statements, cell('if x: y = 1; z = 2'), 'line 1 holds two'),
    (joined_statements, cell('f(x);\ny = 1'), 'line 1 holds two'),
    (joined_statements, file('y = 1\nx = 1;'), 'x.py, line 2 holds two'),
    (long_cells, cell('#| export\n' + 'x = 1\n'*46), '46 lines are exported'),
    (long_cells, cell('#| exporti\n' + 'x = 1\n'*46), '46 lines are exported'),
])
def test_finds(check, piece, message):
    faults = check(piece)
    assert len(faults) == 1 and message in faults[0]

@pytest.mark.parametrize('check, piece', [
    (long_lines, cell('#| fig-cap: "' + 'a'*200 + '"\n' + LONG[1:])),
    (joined_statements, cell('x = "a; b"  # c; d\nf"{x};{x}"\n%time f(x); g(x)\nplot(x);\n# to look at')),
    (joined_statements, cell('#| hide')),
    (joined_statements, cell('def f():\n    x = 1\n    plot(x);')),
    (long_cells, cell('#| export\n#| slow\n\n' + 'x = 1\n\n'*45)),
    (long_cells, cell('x = 1\n'*46)),
])
def test_leaves_alone(check, piece): assert check(piece) == []

def test_median_can_fail():
    files = {'a': [cell('#| export\n' + 'x = 1\n'*n) for n in (5, 11, 12)], 'b': [cell('x = 1'), file('x = 1')]}
    assert median_of_exported(files) == 11
