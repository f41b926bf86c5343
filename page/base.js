// What all views use: texts, elements, links, the keyboard, and the steps that run only in the browser.

const storyteller = { views: {}, current: null };

// The stories of this visit. They survive a reload, and are lost when the tab is closed. In a Space the page is a frame
// in another site. A browser that blocks third-party cookies gives such a frame no storage: then a reload loses them.
storyteller.history = (() => {
  let kept = "[]";
  try {
    sessionStorage.length;
  } catch {
    return { read: () => JSON.parse(kept), write: (stories) => (kept = JSON.stringify(stories)) };
  }
  return {
    read: () => JSON.parse(sessionStorage.getItem("stories") ?? "[]"),
    write: (stories) => sessionStorage.setItem("stories", JSON.stringify(stories)),
  };
})();

// Caches a function of one value: looking up a language or a format for each of 4,000 characters would be slow.
storyteller.once = (make) => {
  const made = new Map();
  return (key) => {
    if (!made.has(key)) made.set(key, make(key));
    return made.get(key);
  };
};

storyteller.words = storyteller.once(() => {
  const tables = window.gradio_config.i18n_translations;
  const languages = [navigator.language, navigator.language.split("-")[0]]; // as Gradio chooses its own texts
  return { ...tables.en, ...tables[languages.find((name) => name in tables)] };
});

// The text of this key in the visitor's language, with its braces filled in. Inserted values stay plain text.
storyteller.say = (key, values = {}) =>
  storyteller.words()[key].replace(/\{(\w+)\}/g, (braces, name) => values[name] ?? braces);

storyteller.numbers = storyteller.once(
  (digits) =>
    new Intl.NumberFormat(navigator.language, { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);
storyteller.number = (value, digits = 0) => storyteller.numbers(digits).format(value);

storyteller.percents = storyteller.once(
  (digits) => new Intl.NumberFormat(navigator.language, { style: "percent", maximumFractionDigits: digits }),
);
storyteller.percent = (share) => storyteller.percents(share < 0.1 ? 2 : 1).format(share);

// Patterns of the server's English refusals, to translate them. A refusal that matches none is shown as it is.
storyteller.refusals = storyteller.once(() => {
  const { en } = window.gradio_config.i18n_translations;
  const literal = (text) => text.replace(/[.*+?^$()|[\]\\]/g, "\\$&");
  const pattern = (text) => new RegExp(`^${literal(text).replace(/\{(\w+)\}/g, "(?<$1>[^]*?)")}$`);
  return Object.keys(en).flatMap((key) => (key.startsWith("refused_") ? [[key, pattern(en[key])]] : []));
});

storyteller.refused = (said) => {
  const words = storyteller.words();
  for (const [key, pattern] of storyteller.refusals()) {
    const found = said.match(pattern);
    if (!found || words[key] === window.gradio_config.i18n_translations.en[key]) continue;
    const values = { ...found.groups };
    for (const [name, value] of Object.entries(values)) {
      if (/^\d{1,3}(,\d{3})+$/.test(value)) values[name] = storyteller.number(BigInt(value.replaceAll(",", "")));
    }
    if (values.name in words) values.name = `“${words[values.name]}”`; // use the field's label as its name
    return storyteller.say(key, values);
  }
  return said;
};

// An element with attributes and children. A string becomes text, never HTML.
storyteller.make = (name, attributes = {}, ...children) => {
  const svg = ["svg", "path", "line", "text", "circle", "g"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// A character in visible form.
storyteller.visible = (character) => {
  const names = { " ": "blank", "\n": "line_break", "<|endoftext|>": "end_of_story" };
  return character in names ? storyteller.say(names[character]) : character;
};

// Gradio shows some errors, such as a full queue, in a toast that vanishes. This shows them in the open tab instead,
// until the next click or key.
new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (!(node instanceof HTMLElement)) continue;
    if (node.matches("#story [data-testid=status-tracker] > .error")) storyteller.failed(); // whichever tab is open
    if (!node.className.includes("toast")) continue;
    const said = node.querySelector('.error[data-testid="toast-text"]')?.textContent.trim();
    const isHere = (it) => it.closest('[role="tabpanel"]')?.checkVisibility();
    const refusal = [...document.querySelectorAll(".refusal")].find(isHere);
    if (!said || !refusal) continue;
    const busy = said.startsWith("This application is currently busy");
    refusal.textContent = busy ? storyteller.say("busy") : storyteller.refused(said);
    node.querySelector('[data-testid="toast-close"]').click();
    const pressed = new AbortController(); // the first of the two removes both listeners
    for (const press of ["click", "keydown"]) { // not pointerdown: the button under the pointer would move away
      const away = () => [pressed.abort(), (refusal.textContent = "")];
      document.addEventListener(press, away, { signal: pressed.signal, capture: true });
    }
  }
}).observe(document, { childList: true, subtree: true });

// Draws a view now, and again whenever its value changes.
storyteller.drawn = (element, props, watch, draw) => {
  const root = element.firstElementChild;
  const redraw = () => draw(root, props.value);
  watch("value", redraw);
  redraw();
};

// A story has steps: Tell, and each Continue. The settings of all steps tell it again. The address bar holds them after
// a #, which the browser does not send to the server.
const SETTINGS = ["length", "temperature", "top_k", "top_p", "min_p", "seed", "drafts", "beams"];
const FORMER = SETTINGS.slice(0, 6); // in links from before there were drafts: these mean one draft and one beam

storyteller.address = (steps) => {
  const [first, ...more] = steps ?? [];
  const link = new URLSearchParams(first);
  for (const step of more) link.append("then", [...SETTINGS.map((name) => step[name]), step.model].join());
  const hash = steps ? `#${link}` : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
  // In a Space the page is a frame: the Hub writes the link into its own address bar.
  if (window.parent !== window) window.parent.postMessage({ hash: hash.slice(1) }, "https://huggingface.co");
};

storyteller.open = () => {
  const link = new URLSearchParams(location.hash.slice(1));
  const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));
  const isFormer = link.has("seed") && !link.has("drafts");
  const names = isFormer ? FORMER : SETTINGS;
  storyteller.coming = link.getAll("then").map((step) => {
    const values = step.split(",");
    const drafts = isFormer ? [1, 1] : [];
    return [values.slice(names.length).join(), ...values.slice(0, names.length).map(number), ...drafts];
  });
  return ["prompt", "model", ...SETTINGS].map((name, i) => {
    if (isFormer && !names.includes(name) && i > 1) return 1;
    if (!link.has(name)) return undefined; // changes nothing, because the visitor may already be typing
    return i < 2 ? link.get(name) : number(link.get(name));
  });
};

storyteller.tellLink = () => {
  if (new URLSearchParams(location.hash.slice(1)).has("seed")) document.querySelector("#tell").click();
};

// Continues with the next step of a link when the step before it is told.
storyteller.coming = [];
storyteller.follow = () => {
  if (storyteller.coming.length && !storyteller.telling) document.querySelector("#go_on").click();
};
// The visitor has pasted a link into the address bar of the open page.
window.addEventListener("hashchange", () => location.reload());

storyteller.pause = () => new Promise((done) => setTimeout(done, 50));

// Stops the story that is being told, if any, and waits until it is in the history.
storyteller.ended = async () => {
  if (storyteller.telling) document.querySelector("#stop").click();
  for (let i = 0; storyteller.telling && i < 100; i++) await storyteller.pause();
};

// Begins a story with a new turn number, so that late events of the turn before do not change it.
storyteller.turn = 0;
storyteller.begin = async () => {
  await storyteller.ended();
  storyteller.turn += 1;
  storyteller.telling = true;
  storyteller.continued = []; // the earlier steps
  storyteller.address(null);
};

storyteller.failed = () => {
  storyteller.telling = false;
  storyteller.coming = [];
  storyteller.address(storyteller.current?.steps);
};

// Waits until Gradio's status of the story is gone: pieces that were on their way at a stop arrive before that.
storyteller.settled = async () => {
  for (let i = 0; i < 100; i++) {
    await storyteller.pause();
    if (!document.querySelector("[data-testid=status-tracker]:not(.hide, :has(> .error))")) return true;
  }
  return false;
};

// The settings that tell the story again. For a stopped story, the length is what was told of it.
storyteller.steps = ({ steps, settings, running, written }) => {
  const step = { ...settings, length: (running && written) || settings.length };
  if (storyteller.continued.length) delete step.prompt; // the prompt is the story so far
  return steps ?? [...storyteller.continued, step];
};

// The story is over: puts its link into the address bar, and the story into the history.
storyteller.keep = async () => {
  const { turn } = storyteller;
  const over = await storyteller.settled();
  if (!over || turn !== storyteller.turn) return [undefined, undefined]; // changes nothing
  storyteller.telling = false;
  const { current } = storyteller;
  if (!current || current.running || current.steps) storyteller.coming = []; // refused or stopped
  if (!current) return [null, undefined];
  // A Continue that wrote nothing is not a step.
  const steps = current.written || !storyteller.continued.length ? storyteller.steps(current) : storyteller.continued;
  const stopped = current.running || Boolean(current.stopped); // this runs for Stop, and again at the end
  const telling = { ...current, steps, running: false, stopped };
  storyteller.address(steps);
  const same = (other) => JSON.stringify(other.steps) === JSON.stringify(steps);
  const all = [telling, ...storyteller.history.read().filter((other) => !same(other))].slice(0, 20);
  storyteller.history.write(all);
  return [telling, all];
};

storyteller.forget = () => {
  storyteller.history.write([]);
  return [[]];
};

// Gradio reads an array as the list of outputs, even where there is only one. So an output that is itself an array stands
// in another array.
storyteller.halt = async () => {
  await storyteller.settled();
  const halted = ({ running, ...telling }) => ({ ...telling, running: false, stopped: running });
  return [storyteller.compared?.map(halted) ?? null];
};

storyteller.clear = async () => {
  storyteller.turn += 1; // so that `keep` does not store the story
  storyteller.telling = false;
  storyteller.coming = [];
  await storyteller.settled();
  storyteller.current = null; // a late end of the story would store it otherwise
  storyteller.address(null);
  return ["", null, null];
};

storyteller.recall = async () => {
  const { chosen } = storyteller;
  await storyteller.ended();
  const steps = chosen.steps.map((step) => ({ drafts: 1, beams: 1, ...step })); // older stories lack them
  storyteller.address(steps);
  const [first] = steps;
  return [{ ...chosen, steps }, first.prompt, first.model, ...SETTINGS.map((name) => first[name])];
};

// The same settings with seed -1, so that the server draws a new one.
storyteller.reseeded = (settings) => settings.map((value, i) => (SETTINGS[i] === "seed" ? -1 : value));
storyteller.another = (model, prompt, ...settings) => [model, prompt, ...storyteller.reseeded(settings)];

storyteller.whole = (telling) => (telling ? telling.prompt + telling.text : "");

storyteller.continuing = (model, telling, again, ...settings) => {
  storyteller.continued = telling?.steps ?? [];
  // The next step of a link, or else the current settings with a new seed: the same seed would repeat the same text.
  const [teller, ...how] = storyteller.coming.shift() ?? [model, ...storyteller.reseeded(settings)];
  const paragraph = telling?.ended && !telling.text.endsWith("\n") ? "\n" : ""; // else the model ends the story again
  return [teller, storyteller.whole(telling) + paragraph, telling ? telling.prompt.length : 0, ...how];
};

storyteller.edit = (prompt) => {
  const whole = storyteller.whole(storyteller.current) || prompt;
  const end = whole.slice(-storyteller.limit);
  const written = end === whole ? whole : end.slice(end.search(/\s/) + 1);
  const box = document.querySelector("#prompt textarea");
  setTimeout(() => {
    box.focus();
    box.setSelectionRange(written.length, written.length);
    box.scrollTop = box.scrollHeight;
  }, 100);
  const limit = storyteller.number(storyteller.limit);
  return [written, end === whole ? null : { text: storyteller.say("edit_end", { limit }) }];
};

storyteller.without = () => ({ text: storyteller.say("no_story_yet"), field: "prompt" });

storyteller.copy = async () => {
  if (!storyteller.current) return storyteller.without();
  const button = document.querySelector("#copy");
  let done = "copied";
  try {
    await navigator.clipboard.writeText(storyteller.whole(storyteller.current));
  } catch {
    done = "not_copied"; // without https a page has no clipboard
  }
  button.textContent = storyteller.say(done);
  storyteller.announce(storyteller.say(done));
  setTimeout(() => (button.textContent = storyteller.say("copy")), 2000);
  return null;
};

storyteller.download = () => {
  const telling = storyteller.current;
  if (!telling) return storyteller.without();
  const [{ prompt, ...settings }, ...more] = storyteller.steps(telling);
  const written = (step, mark, between) => Object.entries(step).map((pair) => pair.join(mark)).join(between);
  const lines = [written(settings, ": ", "\n"), `prompt: ${JSON.stringify(prompt)}`];
  lines.push(...more.map((step) => `then ${written(step, "=", " ")}`));
  const text = `${storyteller.whole(telling)}\n\n---\n${lines.join("\n")}\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  storyteller.make("a", { href: url, download: `story-${settings.model}-${settings.seed}.txt` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  return null;
};

// For the tab "Look inside".
storyteller.lastPart = () => storyteller.whole(storyteller.current).slice(-storyteller.limit);
// The model that told the story reads it, whichever is chosen now.
storyteller.lookingAtStory = (model, text) => [storyteller.current?.settings.model ?? model, text];
storyteller.looking = (model, colours, again, ...sampler) => [
  colours.model, // the model that read the text, even if another is chosen now
  colours.characters,
  storyteller.index,
  ...sampler,
];
storyteller.attending = (model, colours, again, layer, head) => {
  const characters = colours ? colours.characters : "";
  return [colours ? colours.model : model, characters, storyteller.index ?? characters.length, layer, head];
};
storyteller.attendAgain = () => storyteller.attended && document.querySelector("#attend").click();
storyteller.reselect = () => storyteller.index !== undefined && storyteller.lookAgain();

storyteller.enter = (tab) => {
  document.body.dataset.tab = tab;
  const whole = storyteller.lastPart();
  const written = document.querySelector("#text textarea")?.value;
  if (tab === "look" && whole && whole !== storyteller.looked && (!written || written === storyteller.looked)) {
    storyteller.looked = whole;
    document.querySelector("#look_story").click();
  }
};

// Gradio reads an empty box beside a slider as its least value. This restores the value that was there before.
let before = "";
window.addEventListener("focusin", ({ target }) => (before = target.value ?? ""));
window.addEventListener(
  "blur",
  ({ target }) => {
    if (target.type !== "number" || target.value || !before || target.closest?.("#seed")) return;
    target.value = before;
    target.dispatchEvent(new Event("input", { bubbles: true }));
  },
  true, // capture: before Gradio's own listener
);

window.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const compared = Array.isArray(storyteller.compared) ? storyteller.compared : [];
  const runs = { stop: storyteller.telling, compare_stop: compared.some((telling) => telling?.running) };
  for (const button of document.querySelectorAll("button.stop")) {
    if (button.offsetParent || runs[button.id]) button.click(); // also while another tab is open
  }
});
