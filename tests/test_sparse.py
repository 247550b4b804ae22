"Sparse and dense arithmetic: the same loss, the same gradients, the same weights after twenty steps."
import numpy as np, pytest, torch
from scvae_nb.ae import DeepAE
from scvae_nb.data import demo, zscore
from scvae_nb.layers import CSRBatch
from scvae_nb.train import seeded
from scvae_nb.vae import BetaVAE
from scvae_nb.vsc import BetaVSC

MODELS = [DeepAE, BetaVAE, BetaVSC]
CASES = [(np.float64, 1e-10), (np.float32, 1e-5)]

def cells_of(dtype, layer):
    cells = zscore(demo()) if layer else demo()
    if layer: cells.layers[layer] = cells.layers[layer].astype(dtype)
    else: cells.X = cells.X.astype(dtype)
    return cells

def gap(a, b): return float((a - b).detach().norm()/b.detach().norm().clamp_min(1e-300))

@pytest.mark.parametrize('layer', [None, 'zscore'])
@pytest.mark.parametrize('dtype, tol', CASES)
@pytest.mark.parametrize('Model', MODELS)
def test_loss_and_gradients(Model, dtype, tol, layer):
    cells = cells_of(dtype, layer)
    net = Model(max_epochs=1, batch_size=700, layer=layer, progress=False, random_state=0).fit(cells).net_
    X = cells.layers[layer] if layer else cells.X
    dense_batch = torch.from_numpy(X.toarray())
    sparse_batch = CSRBatch.from_scipy(X, dense_batch.dtype)

    def loss_and_gradients(x):
        with seeded(0): loss = net(x)['loss']
        return loss.detach()[None], *torch.autograd.grad(loss, list(net.parameters()))

    pairs = zip(loss_and_gradients(sparse_batch), loss_and_gradients(dense_batch))
    for sparse, dense in pairs: assert gap(sparse, dense) < tol

@pytest.mark.parametrize('layer', [None, 'zscore'])
@pytest.mark.parametrize('dtype, tol', CASES)
@pytest.mark.parametrize('Model', MODELS)
def test_weights_after_twenty_steps(Model, dtype, tol, layer):
    cells = cells_of(dtype, layer)
    settings = dict(max_epochs=5, batch_size=175, layer=layer, progress=False, random_state=0)
    sparse, dense = (Model(arithmetic=way, **settings).fit(cells) for way in ('sparse', 'dense'))
    assert sparse.history_['sparse'] == [1.]*5 and dense.history_['sparse'] == [0.]*5
    np.testing.assert_allclose(sparse.history_['loss'], dense.history_['loss'], rtol=tol)
    for m in (sparse, dense):
        added = m.net_.decoder.weight[:, 128:-1]                             # columns of zeros, for speed
        assert added.shape[1] == 7 and not added.any()
    # All weights as one vector: Adam makes much of a slope that is nearly zero
    weights = [torch.nn.utils.parameters_to_vector(m.net_.parameters()) for m in (sparse, dense)]
    assert gap(*weights) < tol

def test_the_cost_model_decides_and_can_be_overruled():
    cells = demo()
    few = dict(max_epochs=1, progress=False, random_state=0)
    ran = lambda **kw: DeepAE(**few, **kw).fit(cells).history_['sparse']
    assert ran(batch_size=8) == [0.] and ran(batch_size=8, arithmetic='sparse') == [1.]
    assert ran(batch_size=256, arithmetic='dense') == [0.]
    assert DeepAE(**few, arithmetic='sparse').fit(cells.X.toarray()).history_['sparse'] == [1.]
    with pytest.raises(ValueError, match="'arithmetic'"): ran(arithmetic='other')

def test_mixed_precision():
    "Terms that cancel are computed in full, so half precision elsewhere does little harm"
    cells = demo()
    settings = dict(max_epochs=5, progress=False, random_state=0)
    full, mixed = (DeepAE(precision=p, **settings).fit(cells).history_['loss'][-1] for p in ('32-true', 'bf16-mixed'))
    assert abs(mixed/full - 1) < .02
