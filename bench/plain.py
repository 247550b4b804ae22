"""The report's autoencoder as anyone would write it in PyTorch: dense, in memory, the optimiser fused.
The honest opponent."""
import time
import torch
from torch import nn
import torch.nn.functional as F


def network(n_genes, widths=(128, 32, 16, 6)):
    "The layers of `DeepAE`: no activation after the first, ReLU after every other and on the latent, none at the end."
    down = [m for i, o in zip(widths, widths[1:]) for m in (nn.Linear(i, o), nn.ReLU())]
    up = [m for i, o in zip(widths[::-1], widths[-2::-1]) for m in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Linear(n_genes, widths[0]), *down, *up, nn.Linear(widths[0], n_genes))


def fit(X, max_epochs, batch_size, net=None, lr=1e-3, seed=0):
    "Train on a dense float32 tensor; the losses and the seconds of each epoch."
    torch.manual_seed(seed)
    net = net or network(X.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    losses, seconds = [], []
    for _ in range(max_epochs):
        start, total = time.perf_counter(), 0.
        for rows in torch.randperm(len(X)).split(batch_size):
            xb = X[rows]
            loss = F.mse_loss(net(xb), xb, reduction="sum")/len(xb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()*len(xb)
        losses.append(total/len(X))
        seconds.append(time.perf_counter() - start)
    return losses, seconds
