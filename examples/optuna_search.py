"""Optuna searches the rate, the width and the start of a GRU; hopeless trials are pruned.

A sequence is noise whose first step carries a sign, and its class is that sign. Whether a net
learns to keep it depends on how long its gates remember at the start (chrono), which is one of the
choices. After the search the net of the best trial is judged on sequences that chose nothing.
"""

import argparse

import numpy as np
import optuna

import gradcore as gd

LOSS = gd.loss.CrossEntropy(step="last")


def sequences(count, steps, seed):
    """A source of batches, and its arrays (T, N, 1) and (N,)."""
    rng = np.random.default_rng(seed)
    x = 0.3 * rng.standard_normal((steps, count, 1)).astype(np.float32)
    y = rng.integers(0, 2, count)
    x[0, :, 0] = 2 * y - 1
    return gd.data.Sequences(x, y, step="last", batch_size=32), (x, y)


def train(trial, steps, updates, callbacks=()):
    """Trains the net of a trial; returns it, its best parameters and the score of these."""
    hidden = trial.suggest_categorical("hidden_size", [8, 16, 32])
    chrono = trial.suggest_categorical("chrono", [0, steps // 10, steps])
    rate = trial.suggest_float("lr", 1e-3, 3e-2, log=True)
    net = gd.Stack(gd.GRU(1, hidden), gd.Linear(hidden, 2))
    params = net.init(seed=0, chrono=chrono or None)
    optimizer = gd.optim.Adam(params, rate, clip=gd.clip.GlobalNorm(1.0))
    trainer = gd.Trainer(net, params, optimizer, loss=LOSS, callbacks=callbacks, quiet=True)
    data, _ = sequences(256, steps, seed=1)
    held_out, _ = sequences(128, steps, seed=2)
    report = trainer.fit(data, steps=updates, validation=held_out, every=20)
    return net, params, report.best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200, help="steps of a sequence")
    args = parser.parse_args()

    def objective(trial):
        pruning = gd.callbacks.OptunaPruning(trial)
        return train(trial, args.steps, args.updates, [pruning])[2]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=60),
    )
    study.optimize(objective, n_trials=args.trials)
    for trial in study.trials:
        chosen = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
        print(f"{trial.number:2d} {trial.state.name.lower():8s} {trial.value:.4f}  {chosen}")
    net, params, _ = train(optuna.trial.FixedTrial(study.best_params), args.steps, args.updates)
    _, (x, y) = sequences(512, args.steps, seed=3)
    right = (gd.apply(net, params, x)[0][-1].argmax(axis=1) == y).mean()
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    print(f"{pruned} of {args.trials} trials were pruned; the best net is right on {right:.3f}")


if __name__ == "__main__":
    main()
