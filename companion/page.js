"use strict";
// Whatever comes from a model or a reader enters the page by textContent alone.

const find = (selector, inside = document) => inside.querySelector(selector);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

class Refused extends Error {}

async function ask(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const sent = body ? { method: "POST", headers, body: JSON.stringify(body), signal } : { signal };
  let response;
  try {
    response = await fetch(path, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer: is companion serve still running? 服务器没有回应。");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Refused(said?.error?.message ?? `${response.status} ${response.statusText}`);
}

const chosen = (form) => (form.model.value ? { model: form.model.value } : {});
const query = (fields) => new URLSearchParams(fields).toString();

// One request of a panel at a time; what it says goes where screen readers look.
function panel(name, run) {
  const form = find(`#${name} form`), error = find(".error", form), answer = find(".answer", form);
  const submit = find("button[type=submit]", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.getAttribute("aria-disabled") === "true") return;
    submit.setAttribute("aria-disabled", "true");
    answer.setAttribute("aria-busy", "true");
    error.textContent = "";
    try {
      await run(form, answer);
    } catch (problem) {
      if (problem.name !== "AbortError") error.textContent = problem.message;
    } finally {
      submit.removeAttribute("aria-disabled");
      answer.removeAttribute("aria-busy");
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

function bar(name, share, value, chosen = false) {
  const fill = element("span");
  fill.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  const track = element("span", { className: "track", ariaHidden: "true" }, fill);
  name.classList.add("name");
  name.classList.toggle("chosen", chosen);
  return element("li", {}, name, track, element("span", { className: "value", textContent: value }));
}

function tokens(attributions, label) {
  const largest = Math.max(...attributions.map(({ score }) => Math.abs(score)), 1e-9);
  const list = element("ul", { className: "tokens" });
  for (const { token, score } of attributions) {
    const size = Math.abs(score).toFixed(2), zero = Number(size) === 0;
    const shown = zero ? "0" : `${score < 0 ? "−" : "+"}${size}`;
    const item = element("li", { textContent: token }, element("small", { textContent: shown }));
    item.className = zero ? "" : score > 0 ? "for" : "against";
    item.style.setProperty("--strength", (0.5 * Math.abs(score)) / largest);
    list.append(item);
  }
  const legend = element("p", { className: "legend" });
  legend.append(
    `+ speaks for ${label}, − against it: how far its probability falls when the model cannot read the token. `,
    element("span", { lang: "zh-Hans", textContent: "+ 支持该类，− 反对：遮住该词元后概率下降多少。" }),
  );
  return [list, legend];
}

panel("translate", async (form, answer) => {
  const text = form.text.value, explorer = find("#translate .explorer");
  const body = { texts: [text], beam_size: Number(form.beam_size.value), ...chosen(form) };
  const { translations } = await (await ask("api/translate", body)).json();
  answer.textContent = translations[0] || "∅";
  const fields = { text, ...chosen(form) };
  find("iframe", explorer).src = `api/attention?${query(fields)}`;
  explorer.hidden = false;
});

panel("classify", async (form, answer) => {
  const body = { texts: [form.text.value], attributions: form.attributions.checked, ...chosen(form) };
  const [{ label, probabilities, attributions }] = (await (await ask("api/classify", body)).json()).results;
  const list = element("ul", { className: "bars" });
  for (const [name, share] of Object.entries(probabilities).sort((a, b) => b[1] - a[1])) {
    const percent = `${(100 * share).toFixed(1)}%`;
    list.append(bar(element("span", { textContent: name }), share, percent, name === String(label)));
  }
  answer.replaceChildren(list, ...(attributions ? tokens(attributions, label) : []));
});

let stopping = null;
panel("complete", async (form, answer) => {
  const stop = find(".stop", form), written = element("span");
  stopping = new AbortController();
  stop.hidden = false;
  const body = {
    prompt: form.prompt.value,
    max_new_tokens: Number(form.max_new_tokens.value),
    temperature: Number(form.temperature.value),
    stream: true,
    ...chosen(form),
  };
  try {
    const response = await ask("api/complete", body, stopping.signal);
    answer.replaceChildren(element("span", { className: "prompt", textContent: body.prompt }), written);
    for await (const { kind, data } of events(response.body)) {
      if (kind === "error") throw new Refused(data.error.message);
      written.append(data.text ?? "");
    }
  } finally {
    if (document.activeElement === stop) find("button[type=submit]", form).focus();
    stop.hidden = true;
  }
});
find("#complete .stop").addEventListener("click", () => stopping?.abort());

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const whole = (rest + part.value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const lines = event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]);
      const fields = Object.fromEntries(lines);
      yield { kind: fields.event ?? "message", data: JSON.parse(fields.data) };
    }
  }
}

panel("similar", async (form, answer) => {
  const fields = { word: form.word.value.trim(), count: form.count.value, ...chosen(form) };
  const { similar } = await (await ask(`api/similar?${query(fields)}`)).json();
  const list = element("ol", { className: "bars" });
  for (const { word, cosine } of similar) {
    const button = element("button", { type: "button", className: "word", textContent: word });
    button.addEventListener("click", () => {
      form.word.value = word;
      form.word.focus();
      form.requestSubmit();
    });
    list.append(bar(button, cosine, cosine.toFixed(2)));
  }
  answer.replaceChildren(list);
});

async function start() {
  const loaded = find("#loaded");
  try {
    const { models, absent, limits } = await (await ask("api/models")).json();
    for (const { name, task } of models) find(`#${task} form`).model.append(element("option", { textContent: name }));
    for (const label of document.querySelectorAll(".model")) label.hidden = find("select", label).length < 2;
    for (const text of document.querySelectorAll("textarea")) text.maxLength = limits.max_length;
    const most = find("#complete form").max_new_tokens;
    most.max = limits.max_new_tokens;
    most.value = Math.min(most.value, most.max);
    for (const { task, chapter, message } of absent) {
      const chinese = `没有加载这种模型：请先运行 chapters/${chapter}.ipynb，再启动 companion serve。`;
      const note = find(`#${task} .absent`);
      note.replaceChildren(message, element("span", { lang: "zh-Hans", textContent: chinese }));
      note.hidden = false;
      find(`#${task} form`).hidden = true;
    }
    const names = models.map(({ name }) => name).join(", ");
    loaded.textContent = models.length ? `Loaded · 已加载: ${names}` : "No model is loaded. 没有加载任何模型。";
  } catch (problem) {
    loaded.textContent = problem.message;
  }
}
start();
