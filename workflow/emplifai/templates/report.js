(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const samples = [...document.querySelectorAll(".sample")];
  const count = document.getElementById("count");
  const apply = () => {
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
