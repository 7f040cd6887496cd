"use strict";
// The threshold slider: each step calls a few pictures more, and the counts follow.
(() => {
  const panel = document.getElementById("threshold");
  const data = JSON.parse(panel.dataset.steps);
  const slider = document.getElementById("threshold-slider");
  const rate = document.getElementById("threshold-rate");
  const last = data.threshold.length - 1;
  const count = (value) => value.toLocaleString("en");
  const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–");
  const show = (name, text) => {
    document.getElementById(`threshold-${name}`).textContent = text;
  };

  const update = () => {
    const step = Number(slider.value);
    const tp = data.tp[step];
    const fp = data.fp[step];
    const recall = tp / data.positives;
    const alarms = fp / data.negatives;
    const prevalence = Number(rate.value);
    const precision = prevalence
      ? (prevalence * recall) / (prevalence * recall + (1 - prevalence) * alarms)
      : tp / (tp + fp);
    const from = step || step === data.start ? data.threshold[step].toFixed(4) : "above all";
    show("value", from);
    show("called", count(tp + fp));
    show("tp", count(tp));
    show("fp", count(fp));
    show("fn", count(data.positives - tp));
    show("tn", count(data.negatives - fp));
    show("precision", percent(precision));
    show("recall", percent(recall));
    show("chosen", step === data.start ? "the threshold in use" : "");
    slider.setAttribute(
      "aria-valuetext",
      `threshold ${from}, ${count(tp + fp)} called, precision ${percent(precision)}, ` +
        `recall ${percent(recall)}`,
    );
  };

  slider.max = String(last);
  slider.value = String(data.start);
  slider.addEventListener("input", update);
  rate.addEventListener("input", update);
  document.getElementById("threshold-reset").addEventListener("click", () => {
    slider.value = String(data.start);
    update();
  });
  panel.hidden = false;
  update();
})();
