// What all views use: texts, numbers, elements, errors, and the keyboard.

const storyteller = { views: {}, current: null, continued: [], coming: [], compared: [] };

// Caches a function of one value: looking up a language or a format for each of 4,000 characters would be slow.
storyteller.once = (make) => {
  const made = new Map();
  return (key) => {
    if (!made.has(key)) made.set(key, make(key));
    return made.get(key);
  };
};

// The language of the page's words, chosen as Gradio chooses it. Numbers are written in it too: the browser's own
// language may be another one, or no language at all ("C", "en-US@posix").
storyteller.language = storyteller.once(() => {
  const wanted = navigator.language ?? "";
  const has = (name) => Object.hasOwn(window.gradio_config.i18n_translations, name);
  return [wanted, wanted.split("-")[0]].find(has) ?? "en";
});
document.documentElement.lang = storyteller.language(); // Gradio has written its own, which has more languages

storyteller.words = storyteller.once(() => {
  const tables = window.gradio_config.i18n_translations;
  return { ...tables.en, ...tables[storyteller.language()] };
});

// The blocks that Unicode reserves for scripts that are written from right to left.
const fromRight = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

// The text of this key in the visitor's language, with its braces filled in. Inserted values stay plain text. One from
// right to left is isolated, else it would also turn around the numbers and signs beside it.
storyteller.say = (key, values = {}) =>
  storyteller.words()[key].replace(/\{(\w+)\}/g, (braces, name) => {
    const value = values[name] ?? braces;
    return fromRight.test(value) ? `\u2068${value}\u2069` : value;
  });

storyteller.numbers = storyteller.once(
  (digits) =>
    new Intl.NumberFormat(storyteller.language(), { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);
storyteller.number = (value, digits = 0) => storyteller.numbers(digits).format(value);

storyteller.percents = storyteller.once(
  (digits) => new Intl.NumberFormat(storyteller.language(), { style: "percent", maximumFractionDigits: digits }),
);
storyteller.percent = (share) => storyteller.percents(share < 0.1 ? 2 : 1).format(share);

// Patterns of the server's English refusals, to translate them. A refusal that matches none is shown as it is.
storyteller.refusals = storyteller.once(() => {
  const { en } = window.gradio_config.i18n_translations;
  const literal = (text) => text.replace(/[.*+?^$()|[\]\\]/g, "\\$&");
  const pattern = (text) => new RegExp(`^${literal(text).replace(/\{(\w+)\}/g, "(?<$1>[^]*?)")}$`);
  return Object.keys(en).flatMap((key) => (key.startsWith("refused_") ? [[key, pattern(en[key])]] : []));
});

// JavaScript rounds large numbers, so the server names another one than the field shows.
storyteller.asTyped = (said) =>
  said.replace(/^(\w+) \(([^)]+)\)/, (all, name, value) => {
    const typed = document.querySelector(`#${name} input[type="number"]`)?.value;
    return typed && Number(typed) === Number(value) ? `${name} (${typed})` : all;
  });

// `fields` names the fields of this tab that have another label.
storyteller.refused = (refusal, fields = {}) => {
  const said = storyteller.asTyped(refusal);
  const words = storyteller.words();
  for (const [key, pattern] of storyteller.refusals()) {
    const found = said.match(pattern);
    if (!found || words[key] === window.gradio_config.i18n_translations.en[key]) continue;
    const values = { ...found.groups };
    for (const [name, value] of Object.entries(values)) {
      if (/^\d{1,3}(,\d{3})+$/.test(value)) values[name] = storyteller.number(BigInt(value.replaceAll(",", "")));
    }
    const label = words[fields[values.name] ?? values.name];
    if (label) values.name = `“${label}”`;
    return storyteller.say(key, values);
  }
  return said;
};

// An element with attributes and children. A string becomes text, never HTML.
storyteller.make = (name, attributes = {}, ...children) => {
  const svg = ["svg", "path", "text"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// A character as it can be read alone: a mark stands on a dotted circle, an invisible one is its code (U+202E).
storyteller.visible = (character) => {
  const names = { " ": "blank", "\n": "line_break", "<|endoftext|>": "end_of_story" };
  if (character in names) return storyteller.say(names[character]);
  if (/^\p{M}/u.test(character)) return `◌${character}`;
  const code = () => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  return /^[\p{C}\p{Z}]/u.test(character) ? code() : character;
};

// The last characters of a text. JavaScript's `slice` and `length` count an emoji twice, and cut it in half.
storyteller.last = (text, count) => [...text].slice(-count).join("");

// Gradio shows some errors, such as a full queue, in a toast that vanishes. This shows them in the open tab instead,
// until the next click or key.
new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (!(node instanceof HTMLElement)) continue;
    if (!node.className.includes("toast")) continue;
    const said = node.querySelector('.error[data-testid="toast-text"]')?.textContent.trim();
    const isHere = (it) => it.closest('[role="tabpanel"]')?.checkVisibility();
    const refusal = [...document.querySelectorAll(".refusal")].find(isHere);
    if (!said || !refusal) continue;
    const busy = said.startsWith("This application is currently busy");
    refusal.textContent = busy ? storyteller.say("refused_busy") : storyteller.refused(said);
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

// Whether a key belongs to something else: to an input method (some browsers say so by the code 229 only), to a shortcut,
// or to whoever has used it already.
storyteller.isTaken = (event) =>
  event.isComposing || event.keyCode === 229 || event.defaultPrevented ||
  event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;

// What Escape closes: lists, menus, dialogs, popovers, full screen. Closed ones are not visible. A text with shades is a
// list that stays. Extensions and web components have their elements in shadow trees, and take their own keys.
const OPEN = `dialog[open], [role="dialog"], [role="alertdialog"], [role="menu"], .options, .block.fullscreen,
  .overflow-dropdown:not(.hide), [role="combobox"][aria-expanded="true"], [aria-haspopup][aria-expanded="true"],
  [popover]:not([popover="manual"]), [role="listbox"]:not(.colours)`;
const isOpen = (root) =>
  [...root.querySelectorAll("*")].some(
    (it) => (it.matches(OPEN) && it.checkVisibility()) || (it.shadowRoot && isOpen(it.shadowRoot)),
  );
let isTheirs = false;
window.addEventListener(
  "keydown",
  (event) => {
    const isClearing = event.target.type === "search" && event.target.value !== "";
    const isInShadow = event.composedPath()[0] !== event.target;
    isTheirs = event.key === "Escape" && (isInShadow || isClearing || document.fullscreenElement || isOpen(document));
  },
  true, // capture: before anything closes
);
window.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.repeat || isTheirs) return;
  setTimeout(() => storyteller.isTaken(event) || storyteller.escape()); // when all others have seen the key
});

storyteller.escape = () => {
  const isComparing = storyteller.compared.some((telling) => telling?.running);
  const runs = { stop: storyteller.telling, compare_stop: isComparing };
  for (const button of document.querySelectorAll("button.stop")) {
    if (button.offsetParent || runs[button.id]) button.click(); // also while another tab is open
  }
};
