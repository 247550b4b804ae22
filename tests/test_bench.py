"The benchmark runs, and its opponent is the same network. Nothing is timed here."
import subprocess, sys
import pandas as pd, torch
from conftest import ROOT
from scvae_nb.ae import DeepAE
from scvae_nb.data import demo

sys.path.insert(0, str(ROOT/'bench'))

def test_opponent_is_the_same_network():
    "With the same weights the plain loop's first loss is ours, and it has the same parameters"
    import plain
    cells, model = demo(), DeepAE.report()
    ours = model.build(cells.n_vars)
    opponent = plain.network(cells.n_vars)
    linear = [m for m in opponent if isinstance(m, torch.nn.Linear)]
    enc, dec = ours.encoder, ours.likelihood.decoder
    modules = [m for part in (enc.stack, enc.heads[0], dec.stack) for m in part.modules()]
    inner = [m for m in modules if isinstance(m, torch.nn.Linear)]
    weights = [enc.input.weight.T, *(m.weight for m in inner), dec.weight[:, :128]]
    biases = [enc.input.bias, *(m.bias for m in inner), dec.weight[:, -1]]
    with torch.no_grad():
        for layer, weight, bias in zip(linear, weights, biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    X = torch.from_numpy(cells.X.toarray())
    expected = ours(X)['loss'].item()
    losses, seconds = plain.fit(X, 1, 700, net=opponent)                    # the loss before the one step
    assert abs(losses[0]/expected - 1) < 1e-5 and len(seconds) == 1
    filled_up = cells.n_vars*dec.n_zeros                                  # columns of zeros, for speed
    n_ours, n_plain = (sum(p.numel() for p in net.parameters()) for net in (ours, opponent))
    assert n_plain == n_ours - filled_up

def test_runs(tmp_path):
    out = tmp_path/'b'
    command = [sys.executable, ROOT/'bench/run.py', '--tiny', '--rounds', '2', '--out', out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"The comparison is in {out/'bench.html'}"
    table, counted, grown = (pd.read_csv(out/f'{name}.csv') for name in ('bench', 'counts', 'growth'))
    assert list(table.who) == ['ours', 'plain']*2
    assert (table.epoch_s > 0).all() and (table.peak_mb > 50).all() and (table.limit_s > 0).all()
    assert set(grown.cells) == {300, 600} and grown.nonzeros.gt(0).all()
    assert list(counted.who) == ['counts']*2
    assert (counted.elbo < 0).all() and (counted.elbo < -counted.reconstruction).all()
    page = (out/'bench.html').read_text()
    assert page.count('data:image/png;base64,') == 2 and 'times as fast' in page
    names = 'bench.csv bench.html counts.csv epochs.png growth.csv growth.png machine.txt'
    assert sorted(p.name for p in out.iterdir()) == names.split()

def test_verdict_on_the_same_model():
    "Twice as fast, half the memory and one per cent better come out as such"
    from page import same_model
    shared = dict(batch_size=64, round=0, imported_mb=300.)
    ours = shared | dict(who='counts', epoch_s=1., peak_mb=500., reconstruction=980., elbo=-990.)
    scvi = shared | dict(who='scvi', epoch_s=2., peak_mb=1000., reconstruction=990., elbo=-1000.)
    both, (verdict,) = same_model(pd.DataFrame([ours, scvi]))
    assert len(both) == 2
    assert 'batches of 64 an epoch of ours is 2.0 times as fast (2.0 to 2.0)' in verdict
    assert '50% of the memory from start to end, 29% beyond' in verdict
    assert '+1.00%' in verdict
