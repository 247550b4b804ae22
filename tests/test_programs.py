"Gene programs from outside: the command line, bad input at both doors, and a training that is resumed."
import anndata as ad, numpy as np, pandas as pd, pytest, scipy.sparse as sp
from sklearn.base import clone
from scvae_nb import programs
from scvae_nb.all import GenePrograms, simulate_programs
from scvae_nb.cli import main
from scvae_nb.estimator import LatentModel
from scvae_nb.programs import fit_seeds, match_programs

TRUTH = simulate_programs(200, 60, 3, molecules=300)

def as_anndata(counts=TRUTH.counts):
    names = dict(obs=pd.DataFrame(index=[f"c{i}" for i in range(counts.shape[0])]),
                 var=pd.DataFrame(index=[f"g{i}" for i in range(counts.shape[1])]))
    return ad.AnnData(counts, **names)

@pytest.fixture
def file(tmp_path):
    as_anndata().write_h5ad(tmp_path/'cells.h5ad')
    return str(tmp_path/'cells.h5ad')

def test_command_line(file, tmp_path):
    run, out = str(tmp_path/'run'), str(tmp_path/'out.h5ad')
    main(['train', file, '--model', 'programs', '--out', run, '--n_latent', '4', '--max_epochs', '5'])
    main(['embed', file, '--model', run, '--out', out])
    shares = ad.read_h5ad(out).obsm['X_programs']
    assert shares.shape == (200, 4) and shares.min() >= 0 and shares.sum(1).max() < 1
    model = LatentModel.load(tmp_path/'run/model')
    np.testing.assert_allclose(model.transform(as_anndata()), shares, rtol=1e-5)
    assert type(model) is GenePrograms and model.programs_.shape == (4, 60)

def test_twenty_programs_unless_told_otherwise(): assert GenePrograms().n_latent == 20

@pytest.mark.parametrize('change, words', [
    (lambda X: X.log1p(), 'is not a whole number, where counts are expected'),
    (lambda X: X*.5, 'is not a whole number, where counts are expected'),
    (lambda X: X[:3], 'n_latent is 4 and there are 3 cells: ask for fewer programs than cells'),
    (lambda X: sp.csr_matrix(X.toarray()*(np.arange(200) != 7)[:, None]), "1 of 200 cells are without counts"),
    (lambda X: X[:, :1], 'only 1 gene')])
def test_bad_input(change, words):
    cells = as_anndata(sp.csr_matrix(change(TRUTH.counts), dtype=np.float32))
    with pytest.raises(ValueError, match=words): GenePrograms(4, progress=False).fit(cells)

def test_bad_input_at_the_command_line(tmp_path, capsys):
    cells = as_anndata(TRUTH.counts[:3])
    cells.write_h5ad(tmp_path/'few.h5ad')
    with pytest.raises(SystemExit) as stop:
        main(['train', str(tmp_path/'few.h5ad'), '--model', 'programs', '--out', str(tmp_path/'run')])
    assert stop.value.code == 1 and 'ask for fewer programs than cells' in capsys.readouterr().err
    assert not (tmp_path/'run').exists()

def test_a_program_that_dies_is_named():
    with pytest.warns(UserWarning, match='all 3 programs are off in every cell'):
        model = GenePrograms(3, beta=1e4, max_epochs=20, batch_size=20, progress=False, random_state=0)
        model.fit(as_anndata())
    with pytest.raises(ValueError, match='P2 has died: it is on in no cell'): model.top_genes(program=2)
    assert len(model.top_genes()) == 0

def test_genes_by_name():
    cells = as_anndata()
    model = GenePrograms(3, max_epochs=3, beta=.1, progress=False, random_state=0).fit(cells)
    with pytest.warns(UserWarning, match='1 genes of the model are missing and count as not seen: g0'):
        there = model.aligned(cells[:, ::-1][:, :-1])
    np.testing.assert_array_equal(there[:, 1:].X.toarray(), cells[:, 1:].X.toarray())
    with pytest.raises(ValueError, match='50 of the model.s 60 genes are missing'): model.aligned(cells[:, :10])
    with pytest.warns(UserWarning, match='2 markers are not among the genes: X1, X2'):
        model.name_programs(dict(one=['g1', 'X1'], two=['g2', 'X2']))

FOUR = simulate_programs(500, 120, 4, molecules=800, random_state=2)

def quality(model):
    "Mean cosine of the true programs with their matches, and how many programs in use are none of them"
    cosine = match_programs(FOUR.programs, model.programs_[model.used_], model.background_).cosine
    return cosine.sum()/len(FOUR.programs), len(model.used_) - (cosine > .8).sum()

def several(**settings):
    return GenePrograms(8, spread=.5, alpha=.1, batch_size=64, progress=False, random_state=0, **settings)

def test_what_recurs_is_at_least_as_good_as_one_seed():
    "True programs to .02 of a cosine, and no more programs beside them, as the same seeds one by one: their median"
    model = several(consensus=3).fit(FOUR.counts)
    seeds = np.random.RandomState(0).randint(2**31 - 1, size=3)
    single = np.array([quality(fit) for fit in fit_seeds(several(), FOUR.counts, seeds)])
    cosine, spare = quality(model)
    assert cosine >= np.median(single[:, 0]) - .02 and spare <= np.median(single[:, 1])

def test_a_program_of_one_seed_only_is_dropped(monkeypatch):
    "Each fit gets one by hand, so the fit that is taken has one, whichever it is"
    fits, odd = fit_seeds(several(), FOUR.counts, range(3)), []
    for fit in fits:
        odd.append(int(np.setdiff1d(range(8), fit.used_)[-1]))
        fit.learnt_['usage'][odd[-1]] = .2                            # as if a fifth of the cells had it
    monkeypatch.setattr(programs, 'fit_seeds', lambda *_: fits)
    model = several(consensus=3).fit(FOUR.counts)
    best = next(k for k, fit in enumerate(fits) if fit.seed_ == model.seed_)
    assert model.recurrence_.recurs[f'P{odd[best] + 1}'] < .5 and odd[best] not in model.used_
    assert len(model.used_) >= 4 and not (model.usage_probability(FOUR.counts)[:, odd[best]] > .5).any()

def test_the_same_seed_keeps_the_same_programs(tmp_path):
    one, two = (several(consensus=2, max_epochs=20).fit(as_anndata(FOUR.counts)) for _ in range(2))
    shares = one.transform(as_anndata(FOUR.counts))
    np.testing.assert_array_equal(shares, two.transform(as_anndata(FOUR.counts)))
    one.save(tmp_path/'m')
    again = GenePrograms.load(tmp_path/'m')
    np.testing.assert_array_equal(again.transform(as_anndata(FOUR.counts)), shares)
    assert again.used_.tolist() == one.used_.tolist() and clone(again).get_params() == one.get_params()
