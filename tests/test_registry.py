"A new model is a module and one line in the registry: the command line, the table of scores and `load` then serve it."
import sys
import anndata as ad, numpy as np, pandas as pd, pytest
from scvae_nb.cli import main
from scvae_nb.data import demo
from scvae_nb.estimator import MODELS, LatentModel, Spec, register, spec_of
from scvae_nb.report import run_one, score_table

TOY = '''
"A beta-VAE whose latent is three numbers wide, unless it is told otherwise."
from functools import partial
from scvae_nb.estimator import StackedModel
from scvae_nb.posteriors import Gaussian

class Toy(StackedModel):
    def __init__(self, n_latent=3, max_epochs=2, batch_size=100, progress=False, random_state=None):
        super().__init__(n_latent=n_latent, max_epochs=max_epochs, batch_size=batch_size, progress=progress,
                         random_state=random_state)

    def build(self, n_genes, start=None, shift=None):
        return self.gaussian_pair(n_genes, partial(Gaussian), start, shift)
'''

@pytest.fixture
def toy(tmp_path, monkeypatch):
    "The module, and its line in the registry; both are gone afterwards"
    (tmp_path/'toymodel.py').write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    register(Spec('toy', 'toymodel:Toy', 'toy model'))
    yield MODELS['toy']
    del MODELS['toy']
    sys.modules.pop('toymodel', None)

def test_command_line(toy, tmp_path):
    main(['train', 'demo', '--model', 'toy', '--out', str(tmp_path/'run')])
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == ['history.csv', 'latent.csv', 'model']
    main(['embed', 'demo', '--model', str(tmp_path/'run'), '--out', str(tmp_path/'with.h5ad')])
    latent = pd.read_csv(tmp_path/'run/latent.csv', index_col=0)
    assert latent.shape == (700, 3)
    np.testing.assert_allclose(ad.read_h5ad(tmp_path/'with.h5ad').obsm['X_toy'], latent, rtol=1e-5)

def test_load_and_table_of_scores(toy, tmp_path):
    cells = demo()[::3].copy()
    run = run_one('toy', cells, 0, 2)
    table = score_table([run])
    assert list(table.model) == ['toy'] and 0 <= table.nmi[0] <= 1
    run.estimator.save(tmp_path/'m')
    again = LatentModel.load(tmp_path/'m')
    assert spec_of(again) == toy
    np.testing.assert_array_equal(again.transform(cells), run.Z)

def test_without_its_line_it_is_unknown(capsys):
    with pytest.raises(SystemExit): main(['train', 'demo', '--model', 'toy'])
    assert "'toy': it is one of ae, vae, vsc" in capsys.readouterr().err

def test_every_model_can_be_made():
    assert len(MODELS) >= 9
    for key, spec in MODELS.items():
        assert spec.key == key and spec.estimator.__name__ == spec.name
        assert spec_of(spec.estimator()) is spec
