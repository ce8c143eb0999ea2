"""In what is reported."""

from __future__ import annotations

from .error import Error, errors_in

_errors = errors_in("latentflow/metrics/errors.py", "metrics")
_likelihoods = errors_in("latentflow/metrics/likelihoods.py", "metrics")
_evidence = errors_in("latentflow/metrics/evidence.py", "metrics", "metrics_evidence")
_interventions = errors_in("latentflow/metrics/interventions.py", "metrics_interventions")
_codes = errors_in("latentflow/metrics/codes.py", "metrics_codes")
_variation = errors_in("latentflow/metrics/variation.py", "metrics_variation")

ERRORS = (
    _evidence(
        "a frame that is forgotten is not missed",
        "yield path, _of_frames(log_likelihood(path.z), path)",
        "yield path, log_likelihood(path.z)",
    ),
    _evidence(
        "the estimate of a frame has the authors' sign",
        'excess if estimator == "authors"',
        'excess if estimator != "authors"',
    ),
    _evidence("the mean of weights for the logarithm of their mean", 'if estimator == "iwae" else', "if False else"),
    _evidence(
        "bounds of frames take the noise of estimated log-determinants",
        'if estimator == "authors" else _as_flow(flow).with_log_det("exact")',
        "if True else flow",
    ),
    _interventions("all factors but one are held", "== which[:, None, None]", "!= which[:, None, None]"),
    _interventions("variances are not compared with those of all settings", " / overall[active]", ""),
    _interventions(
        "votes are judged by themselves", "votes(train).argmax(0), votes(test)", "votes(test).argmax(0), votes(test)"
    ),
    _interventions(
        "points are judged by themselves",
        "model.score(*(x.numpy() for x in judged))",
        "model.score(*(x.numpy() for x in learned))",
    ),
    _codes("the gap to the worst dimension", "best[-1] - best[-2]", "best[-1] - best[0]"),
    _codes("the information is not a share of the entropy", "_gap(found) / entropy", "_gap(found)"),
    _codes(
        "disentanglement for completeness",
        "_one_sided(importance), _one_sided(importance.mT)",
        "_one_sided(importance.mT), _one_sided(importance)",
    ),
    _codes("accuracy of what was learned", "model.score(test_x, test_factor)", "model.score(x, factor)"),
    _variation("judged by what was learned", "seen, labels, test)", "seen, labels, train)"),
    _variation("the network sees the first image only", "first - last if", "first if"),
    _variation("the last accuracy for the best", "max(accuracies), accuracies[-1]", "accuracies[-1], max(accuracies)"),
    _errors("T-1 steps in the error", "(target - decoded)[:, 1:]", "(target - decoded)[:, 1:-1]"),
    _errors("mean for sum over the pixels", ".abs().flatten(1).sum(1)", ".abs().flatten(2).mean(2).sum(1)"),
    _evidence(
        "sign of the KL in the bound",
        "of_frames(log_likelihood, path).sum(1) - flow_kl",
        "of_frames(log_likelihood, path).sum(1) + flow_kl",
    ),
    _evidence(
        "the mean of the samples' bounds, not their logarithmic sum",
        ".logsumexp(0) - math.log(len(samples))",
        ".mean(0)",
    ),
    _evidence("the bound over samples lacks log S", ".logsumexp(0) - math.log(len(samples))", ".logsumexp(0)"),
    _likelihoods(
        "missing factor ½ in the likelihood", "- 0.5 * (target - decoded).square()", "- (target - decoded).square()"
    ),
    Error(
        "half-precision images are summed in half precision",
        "latentflow/metrics/checks.py",
        "return in_full_precision(x), in_full_precision(other)",
        "return x, other",
        ("metrics",),
    ),
)
