"""Metrics by other people's code: reads a JSON file of query groups, prints their values as JSON.

Input: {"ks": [k..], "groups": [{"ranked": [item..], "tied": [[item, score]..], "gains": {item: gain}}..],
        "labelled": [[score, positive]..], "pairs": [[a, b]..]}; every group has a relevant item.
Output: {reference: {metric: [value of each group]}, ..., "scipy": {"auc", "t", "p"}}; metrics are named as in eval.

trec_eval sorts by score and then by name, and ranx by score alone, whatever the order given. So `ranked` goes in with
strictly decreasing scores; "pytrec_eval, tied" is what comes out if it does not.
"""

import json
import os
import sys

os.environ["NUMBA_DISABLE_JIT"] = "1"  # Compiling takes ranx longer than a few hundred groups by far.

import pytrec_eval
from scipy import stats

try:
    import ranx
except ImportError:
    ranx = None


def per_reachable(value, k, relevant):
    """From all relevant items below the line to those that k places can hold."""
    return value * len(relevant) / min(k, len(relevant))


def decreasing(items):
    return {item: float(len(items) - position) for position, item in enumerate(items)}


def by_pytrec_eval(qrels, runs, ks):
    binary = {q: {item: 1 for item in gains} for q, gains in qrels.items()}
    out = {}
    for k in ks:
        measures = {f"{name}.{k}" for name in ["ndcg_cut", "recall", "P", "success", "map_cut"]}
        values = pytrec_eval.RelevanceEvaluator(binary, measures).evaluate(runs)
        graded = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{k}"}).evaluate(runs)
        # Its reciprocal rank knows no cut, so the lists are cut.
        best = {q: dict(sorted(run.items(), key=lambda row: -row[1])[:k]) for q, run in runs.items()}
        first = pytrec_eval.RelevanceEvaluator(binary, {"recip_rank"}).evaluate(best)
        for q in qrels:
            # A query without results is left out of its answer; here it counts as 0.
            value = lambda name: values.get(q, {}).get(f"{name}_{k}", 0.0)
            found = {
                f"ndcg@{k}": value("ndcg_cut"),
                f"recall@{k}/n": value("recall"),
                f"recall@{k}/min": per_reachable(value("recall"), k, qrels[q]),
                f"precision@{k}": value("P"),
                f"hr@{k}": value("success"),
                f"mrr@{k}": first.get(q, {}).get("recip_rank", 0.0),
                f"map@{k}/n": value("map_cut"),
                f"map@{k}/min": per_reachable(value("map_cut"), k, qrels[q]),
                f"graded ndcg@{k}": graded.get(q, {}).get(f"ndcg_cut_{k}", 0.0),
            }
            for name, number in found.items():
                out.setdefault(name, []).append(number)
    return out


def by_ranx(qrels, runs, ks):
    binary = {q: {item: 1 for item in gains} for q, gains in qrels.items()}
    # It cannot take an empty list: an item that is relevant to nobody stands in.
    runs = ranx.Run({q: run or {"nothing": 1.0} for q, run in runs.items()})
    names = {"ndcg": "ndcg@{}", "recall": "recall@{}/n", "precision": "precision@{}", "hit_rate": "hr@{}",
             "mrr": "mrr@{}", "map": "map@{}/n"}
    out = {}
    for k in ks:
        asked = [f"{name}@{k}" for name in names]
        values = ranx.evaluate(ranx.Qrels(binary), runs, asked, return_mean=False)
        for name, ours in names.items():
            out[ours.format(k)] = list(map(float, values[f"{name}@{k}"]))
        graded = ranx.evaluate(ranx.Qrels(qrels), runs, f"ndcg@{k}", return_mean=False)
        out[f"graded ndcg@{k}"] = list(map(float, graded))
    return out


def by_scipy(labelled, pairs):
    positives = [score for score, positive in labelled if positive]
    negatives = [score for score, positive in labelled if not positive]
    wins = stats.mannwhitneyu(positives, negatives).statistic
    test = stats.ttest_rel([a for a, _ in pairs], [b for _, b in pairs])
    return {"auc": wins / (len(positives) * len(negatives)), "t": test.statistic, "p": test.pvalue}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        given = json.load(file)
    ks, groups = given["ks"], given["groups"]
    # Names of one width, so that they sort as groups do.
    qrels = {f"q{at:06}": group["gains"] for at, group in enumerate(groups)}
    runs = {f"q{at:06}": decreasing(list(map(str, group["ranked"]))) for at, group in enumerate(groups)}
    tied = {f"q{at:06}": {str(item): score for item, score in group["tied"]} for at, group in enumerate(groups)}
    found = {
        "pytrec_eval": by_pytrec_eval(qrels, runs, ks),
        "pytrec_eval, tied": by_pytrec_eval(qrels, tied, ks),
        "scipy": by_scipy(given["labelled"], given["pairs"]),
    }
    if ranx is not None:
        found["ranx"] = by_ranx(qrels, runs, ks)
    json.dump(found, sys.stdout)


main()
