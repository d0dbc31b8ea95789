(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const samples = [...document.querySelectorAll(".sample")];
  const count = document.getElementById("count");
  let order = "";
  const sort = () => {
    if (!form.elements.order || form.elements.order.value === order) return;
    order = form.elements.order.value;
    const gap = (sample) => (order === "gap" ? -Number(sample.dataset.gap) : 0);
    const place = new Map(samples.map((sample, index) => [sample, index]));
    const parent = form.parentElement;
    for (const sample of [...samples].sort((a, b) => gap(a) - gap(b) || place.get(a) - place.get(b))) parent.append(sample);
  };
  const apply = () => {
    sort();
    const emotion = form.elements.emotion.value;
    const hidden = new Set([...form.querySelectorAll("[name=model]:not(:checked)")].map((box) => box.value));
    let shown = 0;
    for (const sample of samples) {
      sample.hidden = emotion !== "" && sample.dataset.emotion !== emotion;
      if (sample.hidden) continue;
      shown += 1;
      for (const part of sample.querySelectorAll("[data-model]")) part.hidden = hidden.has(part.dataset.model);
    }
    count.textContent = shown + " of " + samples.length + " dialogues";
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
