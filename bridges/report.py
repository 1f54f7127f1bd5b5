"""What bridges are reported as: text for the terminal, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import save_figure


def evaluation_text(reports: dict[str, Any]) -> str:
    """The tables of `protocols.evaluate_pair`."""
    first = reports["bridges"]
    lines = [f"next-token loss in nats: dense {first['dense']:.3f}, sparse {first['sparse']:.3f}", ""]
    lines.append("point    encode: explained  hybrid loss    decode: explained  hybrid loss")
    for i, (e, d) in enumerate(zip(first["encode"], first["decode"])):
        lines.append(f"{i:5d}   {e['fve']:16.3f} {e['loss']:12.3f}   {d['fve']:18.3f} {d['loss']:12.3f}")
    lines.append("")
    for name, report in reports.items():
        switching = sum(each["loss"] for each in report["paths"]) / max(1, len(report["paths"]))
        lines.append(
            f"{name}: hybrids' mean loss {report['mean_hybrid']:.3f} ({report['excess']:+.3f} on the dense model's); several switches {switching:.3f}"
        )
    return "\n".join(lines)


def steering_text(report: dict[str, Any]) -> str:
    """The tables of `protocols.steer_task`."""
    lines = [
        f"{report['node']} ({report['chosen']}): probability of the counterfactual's answer in the dense model, {report['prompts']} prompts"
    ]
    lines.append("strength   node (95 % of prompts)      random directions (95 %)")
    rows = zip(
        report["strengths"],
        report["probability"],
        report["low"],
        report["high"],
        report["random"]["low"],
        report["random"]["high"],
    )
    lines += [
        f"{s:8.2f}   {p:.4f} ({low:.4f} to {high:.4f})   {r_low:.4f} to {r_high:.4f}" for s, p, low, high, r_low, r_high in rows
    ]
    full = report["strengths"].index(1.0) if 1.0 in report["strengths"] else -1
    lines += [
        f"{name}: {curve[full]:.4f} at strength {report['strengths'][full]:g}, {curve[-1]:.4f} at {report['strengths'][-1]:g}; push {report['lengths'][name]:.2g}"
        for name, curve in report["others"].items()
    ]
    lines.append(f"push of {report['node']}: {report['lengths'][report['node']]:.2g} (what is read has RMS 1, but for gains)")
    if report["left_out"]:
        lines.append(f"{report['left_out']} pairs are left out: they are not as long as their counterfactuals in tokens")
    return "\n".join(lines)


def draw_steering(report: dict[str, Any], path: Path) -> Path:
    """The probability of the counterfactual's answer by strength, with its controls, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    x = report["strengths"]
    axes.fill_between(x, report["random"]["low"], report["random"]["high"], color="0.8", label="random directions, 95 %")
    axes.fill_between(x, report["low"], report["high"], color="#0072b2", alpha=0.25)
    axes.plot(x, report["probability"], color="#0072b2", label=report["node"])
    for name, curve in report["others"].items():
        axes.plot(x, curve, linewidth=0.8, linestyle="--", label=name)
    axes.set(xlabel="strength", ylabel="probability of the counterfactual's answer")
    axes.set_title(f"Steering {report['task']}", parse_math=False)
    axes.legend(fontsize=7)
    save_figure(figure, path, dpi=150)
    pyplot.close(figure)
    return path
