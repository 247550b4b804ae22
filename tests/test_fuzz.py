"""Files with random damage: each is read in a process of its own, and must give cells that pass every check, or a
`DataError`. No crash of the process, no hang, no other exception. The seeds are fixed: some 250 files of each form;
SCVAE_NB_FUZZ=5000 makes so many of each, with other seeds too."""
import gzip, io, json, os, queue, random, subprocess, sys, tarfile, threading, zipfile
from collections import Counter

import anndata as ad, h5py, numpy as np, pandas as pd, pytest, scipy.sparse as sp
from scipy.io import mmwrite


N = int(os.environ.get('SCVAE_NB_FUZZ', 250))
LOOK, READ = 3, 30                    # seconds for the look that `load` leaves to another process, and for reading

# The worker does in its own process what `load` leaves to a third one, and says when it is through with that: so a
# process does not start for each file. A worker that ends, or has no end, in the look is what `load` refuses.
WORKER = '''
import json, os, sys, warnings
import numpy as np
from scvae_nb import files, guards
answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
warnings.simplefilter('ignore')

def say(answer):
    answers.write(json.dumps(answer) + chr(10))
    answers.flush()

def look(path, room, seconds):
    say('look')
    n = guards.touch(lambda: guards.look_through_file(path, room))
    say('read')
    return n

def check(a):
    M = a.X
    assert M.format == 'csr' and M.dtype == np.float32 and M.shape == a.shape == (a.n_obs, a.n_vars)
    assert len(M.indptr) == a.n_obs + 1 and M.indptr[0] == 0 and (np.diff(M.indptr) >= 0).all()
    assert M.indptr[-1] == len(M.indices) == len(M.data) and np.isfinite(M.data).all()
    assert M.nnz == 0 or 0 <= M.indices.min() <= M.indices.max() < a.n_vars
    assert a.obs_names.is_unique and a.var_names.is_unique
    a[::-2, ::2].copy(), M.T @ M.sum(1), list(a.layers.values())

guards.ask_apart = look
for line in sys.stdin:
    say('read')
    try:
        check(files.load(line.strip(), verbose=False))
        say('cells')
    except guards.DataError as e: say('refused' if str(e) else 'a DataError without a word')
    except BaseException as e: say(f'{type(e).__name__}: {e}'[:200])
'''

class Worker:
    "A process that reads files; it is started again when it ended or had no end"
    def __init__(self, script=WORKER, look=LOOK, read=READ):
        self.script, self.limits = script, dict(look=look, read=read)
        self.start()

    def start(self):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen([sys.executable, '-c', self.script], text=True, **pipes)
        self.lines = queue.Queue()
        threading.Thread(target=self.listen, args=(self.process.stdout, self.lines), daemon=True).start()

    def listen(self, stream, lines):
        for line in stream: lines.put(json.loads(line))
        lines.put(None)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def read(self, path):
        "cells, refused, or what went wrong"
        self.process.stdin.write(f'{path}\n')
        self.process.stdin.flush()
        stage, seconds = 'start', 60
        while True:
            try: answer = self.lines.get(timeout=seconds)
            except queue.Empty: answer = 'no end'
            if answer in self.limits:
                stage, seconds = answer, self.limits[answer]
                continue
            if answer not in (None, 'no end'): return answer
            self.stop()
            self.start()
            return 'refused' if stage == 'look' else answer or 'the process crashed'

@pytest.fixture(scope='module')
def worker():
    w = Worker()
    yield w
    w.stop()

# ---- whole files of each form

RNG = np.random.default_rng(0)
CELLS, GENES = [f'cell{i}' for i in range(40)], [f'G{i}' for i in range(30)]
COUNTS = sp.csr_matrix(RNG.poisson(.5, (40, 30)).astype(np.float32))

def write_10x_h5(path):
    packed = dict(chunks=True, compression='gzip')
    with h5py.File(path, 'w') as f:
        f.create_dataset('matrix/data', data=COUNTS.data.astype(np.int32), **packed)
        f.create_dataset('matrix/indices', data=COUNTS.indices.astype(np.int64), **packed)
        f.create_dataset('matrix/indptr', data=COUNTS.indptr.astype(np.int64), **packed)
        f['matrix/shape'], f['matrix/barcodes'] = np.array([30, 40], np.int32), np.array(CELLS, 'S')
        features = dict(id=GENES, name=GENES, feature_type=['Gene Expression'] * 30, genome=['hg19'] * 30)
        for k, v in features.items(): f[f'matrix/features/{k}'] = np.array(v, 'S')

def write_h5ad(path):
    obs = pd.DataFrame({'type': pd.Categorical(['a', 'b'] * 20)}, CELLS)
    adata = ad.AnnData(COUNTS.copy(), obs=obs, var=pd.DataFrame({'gene_ids': GENES}, GENES))
    adata.layers['counts'] = adata.X.tocsc()
    adata.raw = adata
    adata.write_h5ad(path, compression='gzip')

def texts_10x():
    mtx = io.BytesIO()
    mmwrite(mtx, sp.coo_matrix(COUNTS.T.astype(int)))
    return {'matrix.mtx': mtx.getvalue(), 'barcodes.tsv': '\n'.join(CELLS).encode(),
            'features.tsv': '\n'.join(f'E{i}\t{g}\tGene Expression' for i, g in enumerate(GENES)).encode()}

def table(): return pd.DataFrame(COUNTS.toarray().astype(int), CELLS, GENES).to_csv().encode()

def archive(kind):
    "A tar, a tar.gz or a zip of a 10x folder"
    b = io.BytesIO()
    if kind == 'zip':
        with zipfile.ZipFile(b, 'w', zipfile.ZIP_DEFLATED) as z:
            for name, text in texts_10x().items(): z.writestr(f'hg19/{name}', text)
    else:
        with tarfile.open(fileobj=b, mode='w:gz' if kind == 'tar.gz' else 'w') as tar:
            for name, text in texts_10x().items():
                member = tarfile.TarInfo(f'hg19/{name}')
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text))
    return b.getvalue()

# ---- damage

def flip(b, rng):
    for _ in range(rng.choice([1, 1, 1, 20])): b[rng.randrange(len(b))] = rng.choice([0, 1, 255, rng.randrange(256)])

def cut(b, rng): del b[rng.randrange(len(b)):]

def drop(b, rng):
    at = rng.randrange(len(b))
    del b[at:at + rng.randrange(1, 64)]

def copy(b, rng):
    to, at, n = rng.randrange(len(b)), rng.randrange(len(b)), rng.choice([2, 4, 8, 64])
    b[to:to + n] = b[at:at + n]

def damaged(content, rng):
    "The bytes with one kind of damage"
    b = bytearray(content)
    rng.choice([flip, flip, flip, cut, drop, copy])(b, rng)
    return bytes(b)

WORDS = [b'0', b'-1', b'1', b'31', b'41', b'99999999999', b'-9223372036854775809', b'1e400', b'nan', b'inf', b'1.5',
         b'', b'x', b'\0', b'\xff', b'"', b'1 1', b'%', b'#', b'\n', b'\t\t', b'1e-320', b'0x1']

def reworded(text, rng):
    "A text with one of its words replaced, or a line moved, doubled or left out"
    lines = text.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.choice(['word', 'word', 'word', 'swap', 'double', 'drop'])
    if how == 'swap': lines[i], lines[j] = lines[j], lines[i]
    elif how == 'double': lines.insert(i, lines[j])
    elif how == 'drop': del lines[i]
    else:
        sep = next((s for s in (b',', b'\t', b' ') if s in lines[i]), b' ')
        words = lines[i].rstrip(b'\n').split(sep)
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        lines[i] = sep.join(words) + b'\n'
    return b''.join(lines)

NUMBERS = [0, 1, -1, 29, 30, 31, 40, 41, 2**31, -2**31, 2**62, 255]

def bend(array, rng):
    "An array with wrong numbers in it, or of another shape, length or kind"
    how = rng.choice(['value', 'value', 'value', 'short', 'long', 'empty', 'float', 'text', 'flat', 'reverse'])
    array = array.astype(np.int64) if array.dtype.kind in 'iu' else array.copy()
    if how == 'value' and array.size and array.dtype.kind in 'if':
        array.flat[rng.randrange(array.size)] = rng.choice([*NUMBERS, *([np.nan, np.inf] * (array.dtype.kind == 'f'))])
    if how == 'short': array = array[:rng.randrange(len(array) + 1)]
    if how == 'long': array = np.concatenate([array, array])
    if how == 'empty': array = array[:0]
    if how == 'float' and array.dtype.kind in 'if': array = array + .5
    if how == 'text': array = np.array(['text'] * len(array), 'S')
    if how == 'flat': array = array[None]
    if how == 'reverse': array = array[::-1]
    return array

PARTS = {'.h5': ['data', 'indices', 'indptr', 'shape', 'barcodes', 'features/id', 'features/name',
                 'features/feature_type'],
         '.h5ad': ['X/data', 'X/indices', 'X/indptr', 'layers/counts/indices', 'layers/counts/indptr', 'raw/X/indices',
                   'raw/X/indptr', 'obs/_index', 'var/_index', 'obs/type/codes']}

def bend_hdf5(path, rng):
    "Change one of the arrays in an HDF5 file, or leave it out; or the shape that an attribute tells"
    with h5py.File(path, 'r+') as f:
        group = f['matrix'] if path.suffix == '.h5' else f
        name = rng.choice(PARTS[path.suffix])
        array, attributes = group[name][()], dict(group[name].attrs)
        if path.suffix == '.h5ad' and rng.random() < .2:
            f[rng.choice(['X', 'layers/counts', 'raw/X'])].attrs['shape'] = [rng.choice(NUMBERS), rng.choice(NUMBERS)]
            return
        del group[name]
        if rng.random() < .1: return
        group[name] = bend(array, rng) if array.dtype.kind in 'iuf' or rng.random() < .5 else array[::-1][1:]
        for k, v in attributes.items(): group[name].attrs[k] = v

# ---- every form

def damaged_hdf5(folder, ending, write, rng):
    path, whole = folder/f'x{ending}', folder/f'whole{ending}'
    if not whole.exists(): write(whole)
    if rng.random() < .5: path.write_bytes(damaged(whole.read_bytes(), rng))
    else:
        path.write_bytes(whole.read_bytes())
        bend_hdf5(path, rng)
    return path

def damaged_10x_h5(folder, rng): return damaged_hdf5(folder, '.h5', write_10x_h5, rng)
def damaged_h5ad(folder, rng): return damaged_hdf5(folder, '.h5ad', write_h5ad, rng)

def damaged_10x(folder, rng):
    texts = texts_10x()
    name = rng.choice(['matrix.mtx', 'matrix.mtx', 'matrix.mtx', 'barcodes.tsv', 'features.tsv'])
    texts[name] = rng.choice([damaged, reworded])(texts[name], rng)
    run = folder/'run'
    run.mkdir(exist_ok=True)
    for name, text in texts.items(): (run/name).write_bytes(text)
    return run

def damaged_csv(folder, rng):
    path, text = folder/rng.choice(['x.csv', 'x.csv.gz']), rng.choice([damaged, reworded])(table(), rng)
    if path.suffix == '.gz':
        text = rng.choice([damaged(gzip.compress(table()), rng), gzip.compress(text)])
    path.write_bytes(text)
    return path

def damaged_archive(folder, rng):
    kind = rng.choice(['tar', 'tar.gz', 'zip'])
    path = folder/f'x.{kind}'
    path.write_bytes(damaged(archive(kind), rng))
    return path

FORMS = {'10x h5': damaged_10x_h5, 'h5ad': damaged_h5ad, '10x folder': damaged_10x, 'table': damaged_csv,
         'archive': damaged_archive}

@pytest.mark.parametrize('form', FORMS)
def test_damage_is_refused_or_harmless(form, tmp_path, worker):
    outcomes, bad = Counter(), []
    for seed in range(N):
        path = FORMS[form](tmp_path, random.Random(f'{form} {seed}'))
        outcome = worker.read(path)
        outcomes[outcome] += 1
        if outcome not in ('cells', 'refused'): bad.append(f'seed {seed}: {outcome}')
    print(f'{form}: {dict(outcomes)}')
    assert not bad, f'{len(bad)} of {N} bad: ' + '; '.join(bad[:20])
    assert outcomes['refused'] > N/20, f'hardly anything was damaged: {outcomes}'

@pytest.mark.parametrize('form, whole', [('x.h5', write_10x_h5), ('x.h5ad', write_h5ad)])
def test_whole_files_are_read(form, whole, tmp_path, worker):
    whole(tmp_path/form)
    assert worker.read(tmp_path/form) == 'cells'

# ---- the test can fail

ANSWERS = """
import os, sys, time
for line in sys.stdin:
    for step in line.split():
        if step == 'crash': os.abort()
        elif step == 'hang': time.sleep(60)
        else: print(f'"{step}"', flush=True)
"""

def test_what_the_worker_tells():
    "A crash and a hang are seen; only in the look are they what `load` refuses; the next file finds a new worker"
    w = Worker(ANSWERS, look=1, read=1)
    try:
        for steps, outcome in [('read cells', 'cells'), ('read crash', 'the process crashed'), ('read hang', 'no end'),
                               ('read look crash', 'refused'), ('read look hang', 'refused'),
                               ('read look read crash', 'the process crashed'), ('read look read cells', 'cells'),
                               ('read KeyError:', 'KeyError:')]:
            assert w.read(steps) == outcome, steps
    finally: w.stop()
