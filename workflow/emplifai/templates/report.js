(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const [list, more, count] = ["list", "more", "count"].map((id) => document.getElementById(id));
  const first = [...list.children].map((node) => ({ emotion: node.dataset.emotion, gap: Number(node.dataset.gap), node }));
  const rest = JSON.parse(document.getElementById("rest").textContent);
  const samples = [...first, ...rest.map(([emotion, gap, html]) => ({ emotion, gap, html }))];
  const size = first.length;
  let limit = size;
  const made = (sample) => {
    if (!sample.node) {
      const template = document.createElement("template");
      template.innerHTML = sample.html;
      sample.node = template.content.firstElementChild;
    }
    return sample.node;
  };
  const show = () => {
    const emotion = form.elements.emotion.value;
    const found = samples.filter((sample) => emotion === "" || sample.emotion === emotion);
    if (form.elements.order && form.elements.order.value === "gap") found.sort((a, b) => b.gap - a.gap);
    list.replaceChildren(...found.slice(0, limit).map(made));
    const hidden = new Set([...form.querySelectorAll("[name=model]:not(:checked)")].map((box) => box.value));
    for (const part of list.querySelectorAll("[data-model]")) part.hidden = hidden.has(part.dataset.model);
    more.hidden = found.length <= limit;
    count.textContent = Math.min(limit, found.length) + " of " + found.length + " dialogues";
  };
  form.addEventListener("input", () => {
    limit = size;
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    limit += size;
    show();
  });
  form.hidden = false;
  show();
})();
