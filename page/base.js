// What every view uses: words, elements, links, the keyboard, and the steps that never leave the browser.

const storyteller = { views: {}, current: null };

// In a Space the page is a frame of another site's, and a browser that blocks third-party cookies denies a frame its
// storage. Gradio's BrowserState does not expect that and the page stays empty; so what is kept is kept for this visit.
try {
  localStorage.length;
} catch {
  const kept = new Map();
  const storage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, String(value)),
    removeItem: (key) => kept.delete(key),
  };
  Object.defineProperty(window, "localStorage", { value: storage });
}

// A function of one value that remembers: to look up a language or a format for each of 4,000 characters takes long.
storyteller.once = (make) => {
  const made = new Map();
  return (key) => {
    if (!made.has(key)) made.set(key, make(key));
    return made.get(key);
  };
};

storyteller.words = storyteller.once(() => {
  const tables = window.gradio_config.i18n_translations;
  const languages = [navigator.language, navigator.language.split("-")[0]]; // the one that Gradio's own words take
  return { ...tables.en, ...tables[languages.find((name) => name in tables)] };
});

// The word of this key in the visitor's language, its braces filled in; what is filled in stays text.
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

// The server refuses in English: this is the same in the visitor's language, what has no word of its own as it is.
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
      if (/^\d{1,3}(,\d{3})+$/.test(value)) values[name] = storyteller.number(Number(value.replaceAll(",", "")));
    }
    if (values.name in words) values.name = `“${words[values.name]}”`; // a field is called what its label says
    return storyteller.say(key, values);
  }
  return said;
};

// An element with attributes and children; a string becomes text, never HTML.
storyteller.make = (name, attributes = {}, ...children) => {
  const svg = ["svg", "path", "line", "text", "circle", "g"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// A character as one can see it.
storyteller.visible = (character) => {
  const names = { " ": "blank", "\n": "line_break", "<|endoftext|>": "end_of_story" };
  return character in names ? storyteller.say(names[character]) : character;
};

// What Gradio says in a toast that vanishes, of a full queue for one, stays where the visitor is until the next press.
new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (!(node instanceof HTMLElement) || !node.className.includes("toast")) continue;
    const said = node.querySelector('.error[data-testid="toast-text"]')?.textContent.trim();
    const isHere = (it) => it.closest('[role="tabpanel"]')?.checkVisibility();
    const refusal = [...document.querySelectorAll(".refusal")].find(isHere);
    if (!said || !refusal) continue;
    const busy = said.startsWith("This application is currently busy");
    refusal.textContent = busy ? storyteller.say("busy") : storyteller.refused(said);
    node.querySelector('[data-testid="toast-close"]').click();
    const pressed = new AbortController(); // either press ends the wait for both
    for (const press of ["pointerdown", "keydown"]) {
      const away = () => [pressed.abort(), (refusal.textContent = "")];
      document.addEventListener(press, away, { signal: pressed.signal });
    }
  }
}).observe(document, { childList: true, subtree: true });

// Draws a view now and whenever its value changes.
storyteller.drawn = (element, props, watch, draw) => {
  const root = element.firstElementChild;
  const redraw = () => draw(root, props.value);
  watch("value", redraw);
  redraw();
};

// The address bar carries, after a #, what tells the story again: it is not sent to the server.
storyteller.address = (settings) => {
  const hash = settings ? `#${new URLSearchParams(settings)}` : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
  // In a Space the page is a frame; the Hub then writes its own address bar.
  if (window.parent !== window) window.parent.postMessage({ hash: hash.slice(1) }, "https://huggingface.co");
};

storyteller.open = () => {
  const link = new URLSearchParams(location.hash.slice(1));
  const names = ["prompt", "model", "length", "temperature", "top_k", "top_p", "min_p", "seed"];
  return names.map((name, i) => {
    if (!link.has(name)) return undefined; // which changes nothing: the visitor may be writing already
    const given = link.get(name);
    return i < 2 || given.trim() === "" || Number.isNaN(Number(given)) ? given : Number(given);
  });
};

storyteller.tellLink = () => {
  if (new URLSearchParams(location.hash.slice(1)).has("seed")) document.querySelector("#tell").click();
};
window.addEventListener("hashchange", () => location.reload()); // a link was put into the address bar of an open page

storyteller.pause = () => new Promise((done) => setTimeout(done, 50));

// Ends what is being told, if anything is, and waits until it has its place in the history.
storyteller.ended = async () => {
  if (storyteller.telling) document.querySelector("#stop").click();
  for (let i = 0; storyteller.telling && i < 100; i++) await storyteller.pause();
};

// A story begins, with a turn of its own: what still comes of the turn before leaves it alone.
storyteller.turn = 0;
storyteller.begin = async () => {
  await storyteller.ended();
  storyteller.turn += 1;
  storyteller.telling = true;
  storyteller.address(null);
};

// Gradio shows a story that is being told by its status; what is on its way when one stops comes before that ends.
storyteller.settled = async () => {
  for (let i = 0; i < 100; i++) {
    await storyteller.pause();
    if (!document.querySelector("[data-testid=status-tracker]:not(.hide)")) return true;
  }
  return false;
};

// The story is over: it gets its address and its place in the history.
storyteller.keep = async (kept) => {
  const { turn } = storyteller;
  const over = await storyteller.settled();
  if (!over || turn !== storyteller.turn) return [undefined, undefined, undefined]; // which changes nothing
  storyteller.telling = false;
  const telling = storyteller.current && { ...storyteller.current, running: false };
  if (!telling) return [null, kept, kept];
  storyteller.address(telling.settings);
  const same = (other) => JSON.stringify(other.settings) === JSON.stringify(telling.settings);
  const all = [telling, ...kept.filter((other) => !same(other))].slice(0, 20);
  return [telling, all, all];
};

// An array is a list of outputs, even where there is one output: so one that is an array itself stands in another.
storyteller.halt = async () => {
  await storyteller.settled();
  return [storyteller.compared?.map((telling) => ({ ...telling, running: false })) ?? null];
};

storyteller.clear = async () => {
  storyteller.turn += 1; // nothing is kept
  storyteller.telling = false;
  await storyteller.settled();
  storyteller.current = null; // which a late end of the story would keep
  storyteller.address(null);
  return ["", null, null];
};

storyteller.recall = async () => {
  const { chosen } = storyteller;
  await storyteller.ended();
  storyteller.address(chosen.settings);
  return chosen;
};

storyteller.whole = (telling) => (telling ? telling.prompt + telling.text : "");

storyteller.continuing = (model, telling, again, ...settings) => [
  model,
  storyteller.whole(telling),
  telling ? telling.prompt.length : 0,
  ...settings.slice(0, -1),
  -1, // the same seed again would repeat itself
];

storyteller.edit = (prompt) => {
  const whole = storyteller.whole(storyteller.current) || prompt;
  const box = document.querySelector("#prompt textarea");
  setTimeout(() => {
    box.focus();
    box.setSelectionRange(whole.length, whole.length);
    box.scrollTop = box.scrollHeight;
  }, 100);
  return whole;
};

storyteller.copy = async () => {
  const button = document.querySelector("#copy");
  let done = "copied";
  try {
    await navigator.clipboard.writeText(storyteller.whole(storyteller.current));
  } catch {
    done = "not_copied"; // without https there is no clipboard
  }
  button.textContent = storyteller.say(done);
  setTimeout(() => (button.textContent = storyteller.say("copy")), 2000);
};

storyteller.download = () => {
  const telling = storyteller.current;
  if (!telling) return;
  const { prompt, ...settings } = telling.settings;
  const lines = Object.entries(settings).map(([name, value]) => `${name}: ${value}`);
  const text = `${storyteller.whole(telling)}\n\n---\n${lines.join("\n")}\nprompt: ${JSON.stringify(prompt)}\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  storyteller.make("a", { href: url, download: `story-${settings.model}-${settings.seed}.txt` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};

// To look inside.
storyteller.lastPart = () => storyteller.whole(storyteller.current).slice(-4000);
storyteller.lookingAtStory = (model, text) => [storyteller.current?.settings.model ?? model, text]; // who told it
storyteller.looking = (model, colours, again, ...sampler) => [
  colours.model, // which read the text, whatever is chosen by now
  colours.characters,
  storyteller.index,
  ...sampler,
];
storyteller.attending = (model, colours, again, layer, head) => {
  const characters = colours ? colours.characters : "";
  return [colours ? colours.model : model, characters, storyteller.index ?? characters.length, layer, head];
};
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

window.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const button of document.querySelectorAll("button.stop")) if (button.offsetParent) button.click();
});
