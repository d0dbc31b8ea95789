// A link is /enter#TOKEN: the part after # is sent as a form and taken out of the address.
// Each score is sent when it is chosen, and called saved only when the server has said so; what was not saved is sent again.
(() => {
  "use strict";
  const entry = document.querySelector("form[data-enter]");
  if (entry && location.hash.length > 1) {
    entry.elements.token.value = location.hash.slice(1);
    history.replaceState(null, "", "/enter");
    entry.submit();
    return;
  }
  const form = document.querySelector("form[data-rate]");
  if (!form) return;

  const words = JSON.parse(form.dataset.words);
  const position = Number(form.dataset.position);
  const fields = [...form.querySelectorAll("fieldset")];
  const status = form.querySelector("[data-status]");
  const pending = new Map(); // criterion: score that the server has not yet confirmed
  let leaving = false; // Enter was pressed: the item is to be closed
  let busy = false;
  let stopped = false;
  let pause = 500; // ms until the next try

  const nameOf = (field) => field.dataset.criterion;
  const believed = (field) => form.elements[`was_${nameOf(field)}`];
  const radios = (field) => [...field.querySelectorAll("input[type=radio]")];
  const score = (field) => radios(field).find((radio) => radio.checked)?.value ?? "";
  const say = (text, kind = "") => {
    if (status.textContent !== text) status.textContent = text;
    status.className = kind;
  };

  function paint() {
    for (const field of fields) {
      const state = pending.has(nameOf(field)) ? "unsaved" : believed(field).value ? "saved" : "";
      field.dataset.state = state;
      field.querySelector(".state").textContent = words[state] ?? "";
    }
  }

  let active = 0;
  function activate(index, move = true) {
    active = index;
    fields.forEach((field, k) => field.classList.toggle("active", k === index));
    if (!move) return;
    fields[index].focus({ preventScroll: true });
    fields[index].scrollIntoView({ block: "nearest" });
  }
  const firstEmpty = () => fields.findIndex((field) => !score(field));

  function choose(field, value) {
    if (stopped || leaving) return;
    radios(field).forEach((radio) => (radio.checked = radio.value === value));
    if (believed(field).value === value && !pending.has(nameOf(field))) return;
    pending.set(nameOf(field), value);
    paint();
    send();
  }

  function next() {
    if (stopped) return;
    const empty = firstEmpty();
    if (empty >= 0) {
      say(words.incomplete, "fault");
      activate(empty);
      return;
    }
    leaving = true;
    send();
  }

  // What the server holds, after another tab changed it.
  function adopt(saved) {
    pending.clear();
    leaving = false;
    for (const field of fields) {
      const value = String(saved[nameOf(field)] ?? "");
      believed(field).value = value;
      radios(field).forEach((radio) => (radio.checked = radio.value === value));
    }
  }

  function body(sent, closing) {
    const fieldsOut = new URLSearchParams({ form: form.elements.form.value, position: String(position) });
    for (const [name, value] of sent) fieldsOut.set(name, value);
    for (const field of fields) fieldsOut.set(`was_${nameOf(field)}`, believed(field).value);
    if (closing) fieldsOut.set("next", "1");
    return fieldsOut;
  }

  async function send() {
    if (busy || stopped || !(pending.size || leaving)) return;
    busy = true;
    const sent = new Map(pending);
    const closing = leaving;
    if (!status.classList.contains("fault")) say(words.saving);
    try {
      const answer = await fetch("/rate", {
        method: "POST",
        headers: { Accept: "application/json" },
        body: body(sent, closing),
        signal: AbortSignal.timeout(10000),
      });
      if (answer.status >= 500) throw new Error(String(answer.status));
      settle(answer.status, await answer.json(), sent, closing);
      pause = 500;
      busy = false;
      send();
    } catch {
      say(words.not_saved, "fault");
      setTimeout(() => {
        busy = false;
        send();
      }, pause);
      pause = Math.min(pause * 2, 8000);
    }
  }

  function settle(code, answer, sent, closing) {
    if (code === 200) {
      for (const [name, value] of sent) {
        form.elements[`was_${name}`].value = value;
        if (pending.get(name) === value) pending.delete(name);
      }
      if (answer.position !== position) return leave();
      say(words.all_saved, "good");
    } else if (code === 409 && answer.position !== position) {
      say(answer.message, "fault");
      return leave();
    } else if (code === 409 || (code === 422 && answer.saved)) {
      adopt(answer.saved);
      say(answer.message, "fault");
    } else {
      stopped = true; // session ended, or a page of yesterday: only a new page helps
      pending.clear();
      say(answer.message, "fault");
    }
    paint();
  }

  // Goes on when the server is there to show the next item.
  async function leave() {
    stopped = true;
    pending.clear();
    for (let wait = 250; ; wait = Math.min(wait * 2, 8000)) {
      try {
        if ((await fetch("/health", { signal: AbortSignal.timeout(5000) })).ok) return location.replace("/");
      } catch {
        say(words.saved_waiting, "fault");
      }
      await new Promise((done) => setTimeout(done, wait));
    }
  }

  form.addEventListener("change", (event) => {
    const field = event.target.closest("fieldset");
    if (!field) return;
    choose(field, event.target.value);
    activate(fields.indexOf(field), false);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    next();
  });
  form.addEventListener("focusin", (event) => {
    const field = event.target.closest("fieldset");
    if (field) activate(fields.indexOf(field), false);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    // With a Japanese input method the key is "Process"; its code still names the digit.
    const digit = /^[0-9]$/.test(event.key) ? event.key : /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
    if (digit && !event.shiftKey && radios(fields[active]).some((radio) => radio.value === digit)) {
      event.preventDefault();
      choose(fields[active], digit);
      if (active + 1 < fields.length) activate(active + 1);
    } else if (event.key === "Enter" && !event.repeat && !event.target.closest("a, button")) {
      event.preventDefault();
      next();
    }
  });
  addEventListener("beforeunload", (event) => {
    if (pending.size) event.preventDefault();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  form.noValidate = true;
  for (const field of fields) { // a browser may bring back choices that were never saved
    radios(field).forEach((radio) => (radio.checked = radio.value === believed(field).value));
  }
  paint();
  activate(Math.max(firstEmpty(), 0), false);
})();
