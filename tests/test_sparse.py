"Sparse and dense arithmetic: the same loss, the same gradients, the same weights after twenty steps."
import numpy as np, pytest, torch
from scvae_nb.ae import DeepAE
from scvae_nb.data import demo, zscore
from scvae_nb.layers import CSRBatch
from scvae_nb.train import seeded
from scvae_nb.vae import BetaVAE
from scvae_nb.vsc import BetaVSC

MODELS = [DeepAE, BetaVAE, BetaVSC]
# In single precision a unit may stand so near zero that one way of adding switches it on and the other off. That alone
# moves the gradients of a batch by up to 2e-2, in one batch of a hundred (12 seeds, 3 kernels); the median of five
# batches is 1.6e-5 at most. In double precision no unit stands that near: every batch counts.
CASES = [(np.float64, 1e-10, np.max), (np.float32, 5e-5, np.median)]

def cells_of(dtype, layer):
    cells = zscore(demo()) if layer else demo()
    if layer: cells.layers[layer] = cells.layers[layer].astype(dtype)
    else: cells.X = cells.X.astype(dtype)
    return cells

def gap(a, b): return float((a - b).detach().norm()/b.detach().norm().clamp_min(1e-300))

def gaps_of(net, X, dtype):
    "The gaps between sparse and dense arithmetic on one batch: of the loss, and of the gradient of each tensor"
    ways = []
    for x in (CSRBatch.from_scipy(X, torch.from_numpy(np.zeros(0, dtype)).dtype), torch.from_numpy(X.toarray())):
        with seeded(0): loss = net(x)['loss']
        ways.append((loss.detach()[None], *torch.autograd.grad(loss, list(net.parameters()))))
    return [gap(sparse, dense) for sparse, dense in zip(*ways)]

@pytest.mark.parametrize('layer', [None, 'zscore'])
@pytest.mark.parametrize('dtype, tol, over_batches', CASES)
@pytest.mark.parametrize('Model', MODELS)
def test_loss_and_gradients(Model, dtype, tol, over_batches, layer):
    "On five batches of 140 cells"
    cells = cells_of(dtype, layer)
    net = Model(max_epochs=1, batch_size=700, layer=layer, progress=False, random_state=0).fit(cells).to_torch()
    X = cells.layers[layer] if layer else cells.X
    gaps = [gaps_of(net, X[start::5], dtype) for start in range(5)]    # (batches, tensors)
    assert over_batches(gaps, axis=0).max() < tol

@pytest.mark.parametrize('layer', [None, 'zscore'])
@pytest.mark.parametrize('dtype, tol', [(np.float64, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize('Model', MODELS)
def test_weights_after_twenty_steps(Model, dtype, tol, layer):
    """The loss of every epoch and, in double precision, all weights as one vector.

    Adam divides a slope by its size, so rounding alone moves a weight whose slope is nearly zero by whole steps. Over
    12 seeds the gap of weights is 3e-13 at most in double precision. In single precision it is 1e-6 in the middle and
    1e-2 at most, in weights that hardly matter: the losses still differ by 6e-6 at most."""
    cells = cells_of(dtype, layer)
    few = dict(max_epochs=5, batch_size=175, layer=layer, progress=False, random_state=0)
    sparse, dense = (Model.report(arithmetic=way, **few).fit(cells) for way in ('sparse', 'dense'))
    assert sparse.history_['sparse'] == [1.]*5 and dense.history_['sparse'] == [0.]*5
    np.testing.assert_allclose(sparse.history_['loss'], dense.history_['loss'], rtol=tol)
    for m in (sparse, dense):
        padding = m.to_torch().likelihood.decoder.weight[:, 128:-1]
        assert padding.shape[1] == 7 and not padding.any()             # filled up with zeros, and still
    weights = [torch.nn.utils.parameters_to_vector(m.to_torch().parameters()) for m in (sparse, dense)]
    if dtype is np.float64: assert gap(*weights) < tol

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
    def last_loss(precision):
        model = DeepAE(max_epochs=5, precision=precision, progress=False, random_state=0)
        return model.fit(cells).history_['loss'][-1]
    loss = {p: last_loss(p) for p in ('32-true', 'bf16-mixed')}
    assert abs(loss['bf16-mixed']/loss['32-true'] - 1) < .02
